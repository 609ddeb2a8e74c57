"""Texts that the model writes while it trains, kept in the run folder to be read in order."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate
from lmjax.models.parameters import Params
from lmjax.models.with_extras import MODEL, model_spec
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.parts.naming_tokens import check_names_tokens
from lmjax.train.components import paired
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.prompts import answer_bytes, bytes_after, prompt_ids, source_ids
from lmjax.train.samples_file import Written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples(Evaluation):
    """What the model writes after a few beginnings, or about a few sources where it has an encoder.

    The texts are kept in ``samples.jsonl`` of the run folder, and ``lmjax report`` shows them. The seed is always the
    same, so that texts of different steps can be compared.
    """

    prompts: tuple[str, ...] = ("",)
    """Beginnings of texts; an empty one stands for the beginning of a document."""
    max_new_tokens: int = 64
    """The largest number of tokens that a text gains."""
    sampling: SamplingConfig = dataclasses.field(default_factory=lambda: SamplingConfig(temperature=0.8, top_p=0.95))
    """How tokens are chosen."""
    seed: int = 0
    """The seed of the choices."""

    def __post_init__(self):
        super().__post_init__()
        if not self.prompts:
            raise ValueError(f'evaluations: {self.name}: prompts=(): give at least one, as in ("",)')
        if self.max_new_tokens < 1:
            raise ValueError(f"evaluations: {self.name}: max_new_tokens={self.max_new_tokens}: must be at least 1")

    def begin(self, subject: Subject) -> Measure:
        """Prepares the prompts.

        Raises:
          ValueError: the model does not write one token after the other, or a prompt and its text are too long for it;
            or the run has several processes.
        """
        objective, tokenizer, data = subject.learner.objective, subject.tokenizer, subject.data
        check_names_tokens(objective)
        pair = paired(objective)
        if isinstance(objective, MaskedDiffusion) or (pair is None and objective.traits.attention == "bidirectional"):
            raise ValueError(
                f"evaluations: {self.name}: a {type(objective).__name__} model does not write one token after the "
                f"other: leave the evaluation out"
            )
        if jax.process_count() > 1:
            raise ValueError(f"evaluations: {self.name}: only a run of one process can write texts: leave it out")
        encode = functools.partial(prompt_ids, data, tokenizer)
        ids = [encode(text) if pair is None else source_ids(data, tokenizer, text, pair) for text in self.prompts]
        longest = self.max_new_tokens + (1 if pair is not None else max(map(len, ids)))
        if subject.max_length is not None and longest > subject.max_length:
            raise ValueError(
                f"evaluations: {self.name}: prompt and new tokens make {longest} positions and the model has learned "
                f"{subject.max_length}: shorten the prompts or max_new_tokens"
            )
        spec = model_spec(lambda key: objective.build(subject.model, rngs=nnx.Rngs(params=key)))

        def measure(params: Params, after_part: Callable[[], object]) -> Reading:
            with jax.set_mesh(subject.learner.mesh):
                texts = generate(
                    spec,
                    params[MODEL],
                    ids,
                    vocabulary=tokenizer.vocabulary,
                    max_new_tokens=self.max_new_tokens,
                    sampling=self.sampling,
                    max_length=subject.max_length,
                    attention=objective.traits.attention,
                    start_id=None if pair is None else pair.start_id(tokenizer.vocabulary),
                    seed=self.seed,
                )
            after_part()
            written = []
            for prompt, own, new in zip(self.prompts, ids, texts, strict=True):
                after = functools.partial(bytes_after, tokenizer, prompt, own)
                decode = after if pair is None else answer_bytes(tokenizer)
                written.append(Written(prompt=prompt, text=decode(new).decode(errors="replace")))
            return Reading(numbers=_numbers(texts), written=tuple(written))

        return measure


def _numbers(texts: list[list[int]]) -> dict[str, float]:
    """The mean number of new tokens, and the share of different pairs of neighbours (distinct-2 of Li et al. 2016)."""
    pairs = [pair for text in texts for pair in itertools.pairwise(text)]
    numbers = {"tokens": float(np.mean([len(text) for text in texts]))}
    return numbers | ({"distinct_2": len(set(pairs)) / len(pairs)} if pairs else {})
