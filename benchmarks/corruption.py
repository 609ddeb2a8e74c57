"""Speed of every corruption, beside other libraries' and beside a training step.

    python benchmarks/corruption.py [--rows 64 --length 512 --rounds 20 --no-step]

Prints million tokens a second (the best of the rounds, all functions in turn so that other load on
the machine falls on all) and the share of the time of forward and backward pass of a model of ten
million parameters. The masked-language collator of ``transformers`` and the span corruption of
``t5`` run on the same rows where they are installed.
"""

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from lmjax import corruption
from lmjax.losses import cross_entropy
from lmjax.models.config import ModelConfig
from lmjax.models.transformer import Transformer
from lmjax.types import make_stream

VOCAB = 32_000
STEP_VOCAB = 8192
"""Vocabulary of the model whose step is measured, and of the logits that replacements are sampled from."""
SENTINELS = tuple(range(VOCAB - 1, VOCAB - 301, -1))
SPECIAL = {"vocab_size": VOCAB, "mask_id": 4, "special_ids": (0, 1, 2, 3, *SENTINELS)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    rows: int = 64
    """Rows of a batch."""
    length: int = 512
    """Tokens of a row."""
    documents: int = 4
    """Documents of a packed row."""
    rounds: int = 20
    """Timed calls of each function."""
    step: bool = True
    """Measure a training step too."""


FEWER_ROWS = {"replace_tokens": 16}
"""Functions that are given one row in so many, as logits of all rows take much memory."""

PARTS = {
    "diffusion_times", "linear_schedule", "log_linear_schedule", "cosine_schedule",
    "linear_decay", "exponential_decay", "inverse_sigmoid_decay",
    "span_counts", "span_lengths", "span_mask", "replace_spans", "join_spans",
    "predicted_positions", "put_predictions", "gumbel_sample", "fit_centroids", "projected_clusters",
}  # fmt: skip
"""What is part of a function that is measured, a scalar, or done once and not at every step."""


def functions(length: int) -> dict[str, Callable]:
    """Each corruption as a function of key, tokens and segments (``None`` for whole rows), its name first."""
    word_start = np.random.default_rng(0).random(VOCAB) < 0.7
    modes = {"R": 5, "S": 6, "X": 7}
    all_noise = corruption.DenoiseConfig(permute_sentences=True, rotate=0.5, mask=0.1, delete=0.1, replace=0.1)
    spans = {"sentinel_ids": SENTINELS}
    pairs = {"cls_id": 5, "sep_id": 6}
    centroids = jnp.ones((100, 32))
    scored_1P = jnp.arange(0, length, 7)[None, :]

    def numbers(t, s):
        return jnp.ones_like(t) if s is None else s

    def replace_tokens(k, t, s):
        del s
        scored_BP = jnp.broadcast_to(scored_1P, (len(t), scored_1P.shape[1]))
        # Behind a barrier, or what is known of zeros would be computed by the compiler.
        logits_BPV = jax.lax.optimization_barrier(jnp.zeros((*scored_BP.shape, STEP_VOCAB)))
        return corruption.replace_tokens(k, t, scored_BP, logits_BPV)

    return {
        "mask_tokens": lambda k, t, s: corruption.mask_tokens(k, t, segments=s, **SPECIAL),
        "mask_words": lambda k, t, s: corruption.mask_words(k, t, segments_BT=s, word_start_V=word_start, **SPECIAL),
        "mask_spans": lambda k, t, s: corruption.mask_spans(k, t, segments_BT=s, word_start_V=word_start, **SPECIAL),
        "split_prefix": lambda k, t, s: corruption.split_prefix(k, numbers(t, s)),
        "span_corrupt": lambda k, t, s: corruption.span_corrupt(k, t, segments_BT=s, eos_id=1, **spans),
        "span_corrupt_joined": lambda k, t, s: corruption.span_corrupt_joined(k, t, segments_BT=s, eos_id=1, **spans),
        "ul2": lambda k, t, s: corruption.ul2(k, t, segments_BT=s, mode_ids=modes, **spans),
        "ul2_joined": lambda k, t, s: corruption.ul2_joined(k, t, segments_BT=s, mode_ids=modes, **spans),
        "denoise, infilling": lambda k, t, s: corruption.denoise(k, t, segments_BT=s, **SPECIAL),
        "denoise, all kinds": lambda k, t, s: corruption.denoise(
            k, t, all_noise, segments_BT=s, sentences_BT=t // 64, **SPECIAL
        ),
        "sentence_numbers": lambda k, t, s: corruption.sentence_numbers(t, word_start),
        "fill_in_middle": lambda k, t, s: corruption.fill_in_middle(
            k, t, segments_BT=s, prefix_id=5, suffix_id=6, middle_id=7, length=length
        ),
        "ended_documents": lambda k, t, s: corruption.ended_documents(t, 1),
        "next_sentence_pairs": lambda k, t, s: corruption.next_sentence_pairs(k, t, segments_BT=numbers(t, s), **pairs),
        "sentence_order_pairs": lambda k, t, s: corruption.sentence_order_pairs(k, t, segments_BT=s, **pairs),
        "replace_tokens": replace_tokens,
        "absorb": lambda k, t, s: corruption.absorb(
            k, t, corruption.diffusion_times(k, t.shape[0]), segments_BT=s, mask_id=4
        ),
        "corrupt_negatives": lambda k, t, s: corruption.corrupt_negatives(k, t, segments_BT=s, vocab_size=VOCAB),
        "previous_candidates": lambda k, t, s: corruption.previous_candidates(t, segments_BT=s, window=16),
        "mix_predictions": lambda k, t, s: corruption.mix_predictions(k, t, t, segments_BT=s, teacher_rate=0.5),
        "random_crops": lambda k, t, s: corruption.random_crops(k, t, segments_BT=s),
        "mask_patches": lambda k, t, s: corruption.mask_patches(k, t.shape),
        "mask_frames": lambda k, t, s: corruption.mask_frames(k, t.shape, segments_BT=s),
        "draw_bytes": lambda k, t, s: corruption.draw_bytes(t % 256, columns=32),
        "sound_bytes": lambda k, t, s: corruption.sound_bytes(k, t % 256, width=32, frames=2, noise=0.1),
        "nearest_centroids": lambda k, t, s: corruption.nearest_centroids(
            jnp.broadcast_to(t[:, :, None].astype(jnp.float32), (*t.shape, 32)), centroids
        ),
    }


def unmeasured() -> set[str]:
    """Functions of ``lmjax.corruption`` that :func:`functions` lacks."""
    public = {name for name in corruption.__all__ if inspect.isfunction(getattr(corruption, name))}
    return public - PARTS - {name.split(",")[0] for name in functions(64)}


def peers(tokens: np.ndarray) -> dict[str, tuple[str, Callable[[], object]]]:
    """Other libraries doing one of these jobs: what they stand beside, and a call over all rows."""
    found = {}
    try:
        from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=_word_tokenizer(), mask_token="w4", pad_token="w0", unk_token="w1"
        )
        collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, return_tensors="np")
        found["transformers, MLM collator"] = ("mask_tokens", lambda: collate.numpy_mask_tokens(tokens.copy()))
    except ImportError:
        print("transformers is not installed: its collator is left out")
    try:
        import tensorflow as tf
        from t5.data import preprocessors

        seeds, length = [(0, 1), (2, 3)], tokens.shape[1]

        def corrupt(row):
            mask = preprocessors.random_spans_noise_mask(length, 0.15, seeds, mean_noise_span_length=3.0)
            return (
                preprocessors.noise_span_to_unique_sentinel(row, mask, _T5Vocabulary(), seeds),
                preprocessors.nonnoise_span_to_unique_sentinel(row, mask, _T5Vocabulary(), seeds),
            )

        rows = tf.data.Dataset.from_tensor_slices(tokens).map(corrupt, num_parallel_calls=tf.data.AUTOTUNE)
        found["t5, random spans"] = ("span_corrupt", lambda: [len(inputs) for inputs, _ in rows])
    except ImportError:
        print("t5 is not installed: its preprocessors are left out")
    return found


def _word_tokenizer():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w1"))


class _T5Vocabulary:
    vocab_size = VOCAB
    extra_ids = 300


def best_times(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The shortest of the timed calls of each, in seconds, after one untimed call."""
    for call in calls.values():
        jax.block_until_ready(call())
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def step_seconds_per_token(length: int) -> float:
    """Forward and backward pass of ten million parameters, the optimizer left out."""
    config = ModelConfig(vocab_size=STEP_VOCAB, width=320, num_layers=6, num_heads=5)
    model = Transformer(config, rngs=nnx.Rngs(params=0))
    tokens_BT = jax.random.randint(jax.random.key(0), (4, length), 0, STEP_VOCAB)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(model))
    print(f"step: {num_parameters / 1e6:.1f}M parameters, {tokens_BT.size} tokens")

    def loss(model):
        hidden_BTD = model(make_stream(tokens_BT, None, "causal")).states_BTD
        return cross_entropy(model.logits(hidden_BTD), tokens_BT).mean()

    gradient = jax.jit(jax.grad(loss))
    return best_times({"step": lambda: gradient(model)}, rounds=3)["step"] / tokens_BT.size


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    shape = config.rows, config.length
    key = jax.random.key(0)
    tokens = jax.random.randint(key, shape, 8, VOCAB - 300)
    segments = jnp.broadcast_to((1 + jnp.arange(config.length) * config.documents // config.length)[None, :], shape)
    calls: dict[str, Callable[[], object]] = {}
    size: dict[str, int] = {}
    for name, function in functions(config.length).items():
        jitted = jax.jit(function)
        few = slice(0, max(config.rows // FEWER_ROWS.get(name, 1), 1))
        size[name] = tokens[few].size
        calls[name] = functools.partial(jitted, key, tokens[few], None)
        calls[f"{name} packed"] = functools.partial(jitted, key, tokens[few], segments[few])
    seconds = best_times(calls, config.rounds)
    others = peers(np.asarray(tokens))
    peer_seconds = best_times({name: call for name, (_, call) in others.items()}, rounds=2)
    step = step_seconds_per_token(config.length) if config.step else None
    table = Table(title=f"{config.rows} x {config.length} tokens on {jax.devices()[0].device_kind}")
    for column in ("corruption", "Mtok/s", f"packed ({config.documents} a row)", "share of a step"):
        table.add_column(column, justify="left" if column == "corruption" else "right")
    for name in functions(config.length):
        whole, packed = (f"{size[name] / seconds[n] / 1e6:.3g}" for n in (name, f"{name} packed"))
        share = "" if step is None else f"{seconds[f'{name} packed'] / size[name] / step:.3%}"
        table.add_row(name, whole, packed, share)
    for name, (beside, _) in others.items():
        ratio = peer_seconds[name] / seconds[beside]
        table.add_row(f"{name} ({beside} is {ratio:.1f}x)", f"{tokens.size / peer_seconds[name] / 1e6:.3g}", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
