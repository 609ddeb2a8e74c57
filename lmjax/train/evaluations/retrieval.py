"""Retrieval: how often a query's own text is found among all texts by their vectors.

The texts of a file are sorted for each query by the similarity of their vectors to the query's. Recall at k is the
share of a query's own texts that are among the first k, and the reciprocal rank is one over the place of the first of
them. Both are means over queries (Manning et al. 2008, "Introduction to Information Retrieval", chapter 8; Voorhees
1999).

Axes: Q queries, N texts.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from lmjax.models.parameters import Params
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.evaluations.json_lines import read_fields
from lmjax.train.text_vectors import Role, check_compares_texts, text_vectors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(Evaluation):
    """Recall and mean reciprocal rank of pairs in JSON lines. Equal queries share their texts; equal texts are one."""

    pairs: str
    """A file of JSON lines, each with a query and its text."""
    fields: tuple[str, str] = ("query", "key")
    """The fields of the query and of its text."""
    ks: tuple[int, ...] = (1, 5, 10)
    """The numbers of first texts at which recall is measured."""

    def __post_init__(self):
        super().__post_init__()
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"evaluations: {self.name}: ks={self.ks}: give numbers of at least 1")

    def begin(self, subject: Subject) -> Measure:
        """Reads the pairs, and returns the function that measures.

        Raises:
          ValueError: the model does not make vectors of texts, or the file cannot be read.
        """
        objective = check_compares_texts(subject.learner.objective)
        pairs = [(query, key) for query, key in read_fields(pathlib.Path(self.pairs), self.fields)]
        queries, keys = list(dict.fromkeys(q for q, _ in pairs)), list(dict.fromkeys(k for _, k in pairs))
        place = {key: number for number, key in enumerate(keys)}
        own: dict[str, set[int]] = {query: set() for query in queries}
        for query, key in pairs:
            own[query].add(place[key])

        def measure(params: Params, after_batch: Callable[[], object]) -> Reading:
            def vectors(texts: Sequence[str], role: Role) -> np.ndarray:
                return text_vectors(
                    objective,
                    subject.learner.spec,
                    params,
                    texts,
                    tokenizer=subject.tokenizer,
                    data=subject.data,
                    role=role,
                    max_length=subject.max_length,
                    after_batch=after_batch,
                )

            with jax.set_mesh(subject.learner.mesh):
                query_QD, key_ND = vectors(queries, "query"), vectors(keys, "key")
            found = [
                ranks(key_ND @ query_D, sorted(own[query])) for query, query_D in zip(queries, query_QD, strict=True)
            ]
            numbers = {f"recall_at_{k}": float(np.mean([np.mean(rank < k) for rank in found])) for k in self.ks}
            numbers["mean_reciprocal_rank"] = float(np.mean([1 / (1 + rank.min()) for rank in found]))
            return Reading(numbers=numbers, counts={"queries": len(queries), "texts": len(keys)})

        return measure


def ranks(similarity_N: np.ndarray, own: Sequence[int]) -> np.ndarray:
    """Returns the places, from 0, of some texts among all, the most similar first; of equals the first comes first."""
    place_N = np.empty(len(similarity_N), np.int64)
    place_N[np.argsort(-similarity_N, kind="stable")] = np.arange(len(similarity_N))
    return place_N[list(own)]
