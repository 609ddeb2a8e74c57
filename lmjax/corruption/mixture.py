"""UL2: a mixture of denoisers. Each document is corrupted by one of them, and a mode token before it says which.

Tay et al. 2022, section 3.1: R is regular span corruption, X is extreme (long spans, or many), S is
sequential (a prefix and its continuation). A denoiser is two numbers, density and mean span. They are drawn for every
document, so the whole mixture is one compiled function.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.corruption.segmentation import check_spans, span_counts, span_mask
from lmjax.corruption.sentinels import join_spans, replace_spans
from lmjax.corruption.spans import check_sentinels
from lmjax.layout import documents
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
    """One way to corrupt a document."""

    mode: str
    """Name of the mode token that announces it ("R", "S" or "X" in the paper)."""
    density: float
    """Share of the tokens to predict."""
    mean_span: float = math.inf
    """Mean tokens of a span; infinity predicts the document's end, without sentinels: a prefix LM."""
    weight: float = 1.0
    """How often it is drawn, relative to the others."""

    def __post_init__(self):
        check_spans("denoiser", self.density, self.mean_span)
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"denoiser: weight={self.weight}: must be 0 or more")


UL2_DENOISERS = (
    Denoiser(mode="R", density=0.15, mean_span=3.0),
    Denoiser(mode="R", density=0.15, mean_span=8.0),
    Denoiser(mode="S", density=0.25),
    Denoiser(mode="X", density=0.5, mean_span=3.0),
    Denoiser(mode="X", density=0.5, mean_span=8.0),
    Denoiser(mode="X", density=0.15, mean_span=64.0),
    Denoiser(mode="X", density=0.5, mean_span=64.0),
)
"""The seven settings of the paper's Table 1, drawn equally often."""


def ul2(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    sentinel_ids: Sequence[int],
    mode_ids: Mapping[str, int],
    denoisers: Sequence[Denoiser] = UL2_DENOISERS,
    segments_BT: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
    inputs_length: int | None = None,
    targets_length: int | None = None,
) -> tuple[Rows, Rows]:
    """Applies the mixture for an encoder-decoder; a denoiser is drawn for every document.

    Tay et al. 2022, section 3.1.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      sentinel_ids: sentinels in the order of use.
      mode_ids: id of each mode token, put before the document's input.
      denoisers: the denoisers, each drawn in proportion to its weight.
      segments_BT: document numbers, 0 for padding; ``None``: one document fills the row.
      eos_id: appended to every document's input and targets; ``None`` appends nothing.
      pad_id: fills the rows.
      inputs_length: length of the input rows, by default the largest length that any of the denoisers needs for a
        document that fills the row; longer rows are cut at the end.
      targets_length: length of the target rows, with the same default and cut.

    Returns:
      ``(inputs, targets)``; the same document has the same number in the ``segments_BT`` of both.

    Raises:
      ValueError: a denoiser needs more sentinels than there are, a mode has no token, no denoiser
        has any weight, or the rows are too short.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> to_the_end = (corruption.Denoiser(mode="S", density=0.5),)
      >>> tokens_BT = jnp.array([[5, 6, 7, 8]])
      >>> options = {"sentinel_ids": (90, 91), "mode_ids": {"S": 80}, "denoisers": to_the_end}
      >>> inputs, targets = corruption.ul2(jax.random.key(0), tokens_BT, **options)
      >>> print(inputs.tokens_BT, targets.tokens_BT)
      [[80  5  6]] [[7 8]]
    """
    length, extra = tokens_BT.shape[1], int(eos_id is not None)
    counts = _counts("ul2", length, denoisers, mode_ids, sentinel_ids)
    noise_BT, plain_BT, mode_BT = _draw(key, tokens_BT.shape, denoisers, mode_ids, segments_BT)
    return replace_spans(
        tokens_BT,
        noise_BT,
        sentinel_ids=sentinel_ids,
        inputs_length=inputs_length or 1 + extra + max(length - noise + spans for noise, spans in counts),
        targets_length=targets_length or extra + max(noise + spans for noise, spans in counts),
        segments_BT=segments_BT,
        plain_BT=plain_BT,
        begin_ids_BT=mode_BT,
        eos_id=eos_id,
        pad_id=pad_id,
    )


def ul2_joined(
    key: jax.Array,
    tokens_BT: jax.Array,
    *,
    sentinel_ids: Sequence[int],
    mode_ids: Mapping[str, int],
    denoisers: Sequence[Denoiser] = UL2_DENOISERS,
    segments_BT: jax.Array | None = None,
    eos_id: int | None = None,
    pad_id: int = 0,
    length: int | None = None,
) -> tuple[Rows, jax.Array]:
    """Applies the mixture for a decoder: each document's input is followed by its targets in the same row.

    It takes the arguments of :func:`ul2`, but one ``length``, by default the largest that any of the denoisers needs
    for a document that fills the row.

    Tay et al. 2022, section 3.1.

    Returns:
      ``(rows, prefix_end_BT)``, see :func:`lmjax.corruption.sentinels.join_spans`.

    Raises:
      ValueError: as :func:`ul2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> to_the_end = (corruption.Denoiser(mode="S", density=0.5),)
      >>> tokens_BT = jnp.array([[5, 6, 7, 8]])
      >>> options = {"sentinel_ids": (90, 91), "mode_ids": {"S": 80}, "denoisers": to_the_end}
      >>> rows, prefix_end_BT = corruption.ul2_joined(jax.random.key(0), tokens_BT, **options, length=5)
      >>> print(rows.tokens_BT, prefix_end_BT)
      [[80  5  6  7  8]] [[3 3 3 3 3]]
    """
    row_length = tokens_BT.shape[1]
    counts = _counts("ul2_joined", row_length, denoisers, mode_ids, sentinel_ids)
    longest = row_length + 1 + 2 * max(spans for _, spans in counts) + int(eos_id is not None)
    noise_BT, plain_BT, mode_BT = _draw(key, tokens_BT.shape, denoisers, mode_ids, segments_BT)
    return join_spans(
        tokens_BT,
        noise_BT,
        sentinel_ids=sentinel_ids,
        length=length or longest,
        segments_BT=segments_BT,
        plain_BT=plain_BT,
        begin_ids_BT=mode_BT,
        eos_id=eos_id,
        pad_id=pad_id,
    )


def _counts(
    function: str,
    length: int,
    denoisers: Sequence[Denoiser],
    mode_ids: Mapping[str, int],
    sentinel_ids: Sequence[int],
) -> list[tuple[int, int]]:
    """Checks the arguments; returns noise tokens and sentinels of a document that fills the row, for each denoiser."""
    if length < 2:
        raise ValueError(f"{function}: rows of length {length} have nothing to keep: use at least 2 tokens")
    if not sum(denoiser.weight for denoiser in denoisers) > 0:
        raise ValueError(f"{function}: denoisers have no weight: give at least one a weight above 0")
    counts = []
    for denoiser in denoisers:
        if denoiser.mode not in mode_ids:
            raise ValueError(
                f"{function}: mode_ids has no token for mode {denoiser.mode!r}, only {sorted(mode_ids)}: "
                f"add the mode token to the tokenizer"
            )
        noise, spans = span_counts(length, denoiser.density, denoiser.mean_span)
        spans = 0 if math.isinf(denoiser.mean_span) else spans
        check_sentinels(function, length=length, spans=spans, sentinel_ids=sentinel_ids)
        counts.append((noise, spans))
    return counts


def _draw(
    key: jax.Array,
    shape: tuple[int, ...],
    denoisers: Sequence[Denoiser],
    mode_ids: Mapping[str, int],
    segments_BT: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws each document's denoiser; returns its noise, whether it has no sentinels, and its mode token."""
    choice_key, span_key = jax.random.split(key)
    cumulative = np.cumsum([denoiser.weight for denoiser in denoisers])
    thresholds = jnp.asarray((cumulative / cumulative[-1])[:-1], jnp.float32)
    choice_BT = jnp.searchsorted(thresholds, jax.random.uniform(choice_key, shape), side="right")
    choice_BT = documents(segments_BT, shape).shared(choice_BT.astype(jnp.int32))

    def chosen(values: list, dtype) -> jax.Array:
        return jnp.asarray(values, dtype)[choice_BT]

    noise_BT = span_mask(
        span_key,
        shape,
        density=chosen([denoiser.density for denoiser in denoisers], jnp.float32),
        mean_span=chosen([denoiser.mean_span for denoiser in denoisers], jnp.float32),
        segments_BT=segments_BT,
    )
    plain_BT = chosen([math.isinf(denoiser.mean_span) for denoiser in denoisers], bool)
    return noise_BT, plain_BT, chosen([mode_ids[denoiser.mode] for denoiser in denoisers], jnp.int32)
