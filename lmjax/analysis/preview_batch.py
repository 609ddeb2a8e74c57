"""Makes the batch of a training step without training: it has the same rows, corrupted with the same PRNG key.

Axes: M members of an example, S positions of a member.
"""

import re
from collections.abc import Sequence

import jax
import numpy as np

from lmjax.objectives import Objective
from lmjax.schedules.ramp import at_step
from lmjax.tokenizers import Tokenizer, Vocabulary, build_tokenizer
from lmjax.train.config import RunConfig
from lmjax.train.corpus import Corpus
from lmjax.train.corpus_tokenizer import load_or_train_tokenizer
from lmjax.train.curriculum import curriculum
from lmjax.train.open_corpus import TOKENIZER, corpus_folder
from lmjax.train.setup import resolve
from lmjax.train.step import run_keys, step_keys
from lmjax.types import Batch, Rows


def step_rows(config: RunConfig, corpus: Corpus, step: int) -> Rows:
    """Returns the global batch of rows that update number ``step`` (from 0) of a run of ``config`` reads."""
    phases = curriculum(config.objective, config.train)
    return next(phases.batches(phases.rows(corpus, seed=config.train.seed), start_step=step))


def step_batch(config: RunConfig, vocabulary: Vocabulary, rows: Rows, step: int) -> Batch:
    """Returns the batch that the objective makes of ``rows`` at update number ``step`` (from 0).

    Its weights are not normalised yet.

    Raises:
      ValueError: the objective refuses the recipe.
    """
    objective = config.objective
    sequence_length = config.train.sequence_length
    objective.check_data(config.data)
    objective.check(model=resolve(config, vocabulary).model, vocabulary=vocabulary, sequence_length=sequence_length)
    _, run_key = run_keys(jax.random.key(config.train.seed))
    corrupt_key, _ = step_keys(run_key, step)
    return jax.jit(lambda key, rows: at_step(objective, step).corrupt(key, rows, vocabulary))(corrupt_key, rows)


def text_documents(given: Sequence[str]) -> list[str]:
    """Returns the documents of texts; blank lines divide the documents."""
    return [part for text in given for part in re.split(r"\n[ \t]*\n", text) if part]


def text_rows(config: RunConfig, tokenizer: Tokenizer, documents: Sequence[str], *, num_rows: int) -> Rows:
    """Returns ``num_rows`` equal rows of the documents, encoded as preparation does and joined end to end.

    A row is as short as the text allows and at most ``train.sequence_length`` long; a longer text is
    cut. Documents are kept apart if ``data.packing`` says so, or if the row needs padding.

    Raises:
      ValueError: there is no text.
    """
    data, vocabulary = config.data, tokenizer.vocabulary
    before = [vocabulary.require("bos", needed_by="data.add_bos=True")] if data.add_bos else []
    after = [vocabulary.require("eos", needed_by="data.add_eos=True")] if data.add_eos else []
    encoded = [[*before, *tokenizer.encode(document).tolist(), *after] for document in documents]
    if not encoded:
        raise ValueError("--text has no text: give some, or leave it out to see the recipe's own data")
    if data.packing == "examples":
        return _example_rows(config.objective, encoded, config.train.sequence_length, vocabulary.pad_id or 0, num_rows)
    tokens = [token_id for document in encoded for token_id in document]
    length = config.train.sequence_length
    row_length = config.objective.row_length
    while length > 1 and row_length(length - 1) >= len(tokens):
        length -= 1
    tokens_T = np.full(row_length(length), vocabulary.pad_id or 0, np.int32)
    segments_T = np.zeros_like(tokens_T)
    num_tokens = min(len(tokens), len(tokens_T))
    tokens_T[:num_tokens] = tokens[:num_tokens]
    numbers = [number for number, document in enumerate(encoded, start=1) for _ in document]
    segments_T[:num_tokens] = numbers[:num_tokens]
    if data.packing == "windows":
        segments_T = np.minimum(segments_T, 1)
    has_segments = data.packing != "windows" or num_tokens < len(tokens_T)
    return Rows(
        tokens_BT=np.tile(tokens_T, (num_rows, 1)),  # type: ignore[arg-type]
        segments_BT=np.tile(segments_T, (num_rows, 1)) if has_segments else None,  # type: ignore[arg-type]
    )


def _example_rows(
    objective: Objective, encoded: Sequence[Sequence[int]], length: int, pad_id: int, num_rows: int
) -> Rows:
    """Returns rows that hold one example with the first texts as its members, each as short as the texts allow."""
    num_members = objective.traits.num_members
    if len(encoded) < num_members:
        raise ValueError(
            f"--text has {len(encoded)} of the {num_members} texts {type(objective).__name__} compares: repeat the "
            f"option, or divide them by blank lines"
        )
    members = encoded[:num_members]
    while length > 1 and objective.row_length(length - 1) // num_members >= max(map(len, members)):
        length -= 1
    tokens_MS = np.full((num_members, objective.row_length(length) // num_members), pad_id, np.int32)
    segments_MS = np.zeros_like(tokens_MS)
    for number, ids in enumerate(members):
        size = min(len(ids), tokens_MS.shape[1])
        tokens_MS[number, :size], segments_MS[number, :size] = ids[:size], number + 1
    return Rows(
        tokens_BT=np.tile(tokens_MS.ravel(), (num_rows, 1)),  # type: ignore[arg-type]
        segments_BT=np.tile(segments_MS.ravel(), (num_rows, 1)),  # type: ignore[arg-type]
    )


def recipe_tokenizer(config: RunConfig) -> Tokenizer:
    """Returns the recipe's tokenizer; the corpus is read only if one must be trained, which is then saved."""
    data, tokenizer = config.data, config.tokenizer
    made_anew = tokenizer.path is not None or tokenizer.kind in (None, "bytes")
    if made_anew and data.prepared is None and not data.mixture:
        return build_tokenizer(tokenizer, lambda: ())
    return load_or_train_tokenizer(data, tokenizer, corpus_folder(data, tokenizer) / TOKENIZER)
