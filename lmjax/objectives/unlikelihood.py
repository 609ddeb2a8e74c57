"""Unlikelihood training: make the right token likely and repetitions unlikely (Welleck et al. 2019, section 5.1).

    loss = mean over t of  - log p(x_t | x_<t)  - alpha  sum over c in C_t of  log(1 - p(c | x_<t)),
    C_t = {x_1, ..., x_(t-1)} without x_t,

within each packed document, each distinct token of the context counted once.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lmjax.corruption import previous_candidates
from lmjax.losses import cross_entropy, unlikelihood
from lmjax.losses.linear import CHUNK_LOGITS, MIN_CHUNK_TOKENS
from lmjax.models.transformer import Transformer
from lmjax.objectives.base import Objective, next_token_targets
from lmjax.parallel.mesh import constrain, mesh_axes_of
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnlikelihoodLM(Objective):
    """Next-token prediction and, as a second term, the unlikelihood of the tokens already used."""

    alpha: float = 1.0
    """Weight of the unlikelihood term."""
    window: int | None = None
    """Tokens to look back for candidates; the whole context when unset, at T ids a position."""

    def __post_init__(self):
        if self.alpha < 0:
            raise ValueError(f"objective.alpha={self.alpha}: must not be negative")
        if self.window is not None and self.window < 1:
            raise ValueError(f"objective.window={self.window}: must be at least 1, or None for the whole context")

    def row_length(self, sequence_length: int) -> int:
        """T inputs and the token after the last of them."""
        return sequence_length + 1

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts, as a causal model's; the candidates are found by ``terms``, a microbatch at a time."""
        del key, vocabulary
        inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(rows)
        return Batch(
            inputs=make_stream(inputs_BT, segments_BT, "causal"),
            targets_BP=targets_BT,
            weights={"loss": weights_BT, "unlikelihood": weights_BT},
        )

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> dict[str, jax.Array]:
        """Both terms from the same logits, which exist for a chunk of positions at a time."""
        candidates_BTC = self.candidates(batch)
        head_model = _with_gathered_head(model)

        def chunk(hidden_BCD, targets_BC, candidates_BCK, likely_BC, unlikely_BC):
            logits_BCV = constrain(head_model(hidden_BCD), "batch", None, "vocab")
            return (
                jnp.sum(likely_BC * cross_entropy(logits_BCV, targets_BC)),
                jnp.sum(unlikely_BC * unlikelihood(logits_BCV, candidates_BCK)),
            )

        likely, unlikely = _sum_over_chunks(
            chunk,
            _chunk_length(batch.targets_BP.shape[0], model.config.vocab_size),
            model(batch.inputs, key=key),
            batch.targets_BP,
            candidates_BTC,
            batch.weights["loss"],
            batch.weights["unlikelihood"],
        )
        return {"loss": likely, "unlikelihood": unlikely}

    def candidates(self, batch: Batch) -> jax.Array:
        """Tokens each position must not say, int32 [B, T, window], negative where there are fewer.

        The context of position t is its inputs up to and with t: position 0 already has one token to
        avoid.
        """
        inputs_BT, targets_BT = batch.inputs.tokens_BT, batch.targets_BP
        # Found among the inputs and the last target, whose document goes on by the interval mask.
        documents_BT = jnp.broadcast_to(batch.inputs.mask.start_BT, inputs_BT.shape) + 1
        tokens_BS = jnp.concatenate([inputs_BT, targets_BT[:, -1:]], axis=1)
        documents_BS = jnp.concatenate([documents_BT, documents_BT[:, -1:]], axis=1)
        window = min(self.window or inputs_BT.shape[1], inputs_BT.shape[1])
        return previous_candidates(tokens_BS, window=window, segments_BT=documents_BS)[:, 1:]

    def coefficients(self) -> dict[str, float]:
        """Alpha."""
        return {"unlikelihood": self.alpha}


def _with_gathered_head(model: Transformer) -> Callable[[jax.Array], jax.Array]:
    """The map to logits, its matrix gathered once and not in every chunk."""
    head = model.head()
    weight_DV = constrain(head.weight_DV, None, "vocab")

    def logits(hidden_BCD: jax.Array) -> jax.Array:
        logits_BCV = jnp.einsum(
            "bcd,dv->bcv", hidden_BCD, weight_DV.astype(hidden_BCD.dtype), preferred_element_type=jnp.float32
        )
        if head.bias_V is not None:
            logits_BCV = logits_BCV + head.bias_V[None, None, :]
        return logits_BCV if head.softcap is None else head.softcap * jnp.tanh(logits_BCV / head.softcap)

    return logits


def _chunk_length(num_rows: int, vocab_size: int) -> int:
    """Positions of each row in a chunk: as many logits on a device as the fused loss makes."""
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else math.prod(mesh.shape.get(axis, 1) for axis in mesh_axes_of("batch"))
    return max(1, max(CHUNK_LOGITS // vocab_size, MIN_CHUNK_TOKENS) * ways // num_rows)


def _sum_over_chunks(body: Callable, length: int, *arrays_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums ``body`` over chunks of ``length`` positions; the backward pass makes each chunk's logits again."""
    num_rows, num_positions = arrays_BT[0].shape[:2]
    num_chunks = -(-num_positions // length)
    length = -(-num_positions // num_chunks)

    def cut(array_BT: jax.Array) -> jax.Array:
        rest = array_BT.shape[2:]
        padding = ((0, 0), (0, num_chunks * length - num_positions), *((0, 0),) * len(rest))
        array_BNC = jnp.pad(array_BT, padding).reshape(num_rows, num_chunks, length, *rest)
        return constrain(array_BNC.swapaxes(0, 1), None, "batch", None, *(None,) * len(rest))

    def add(sums, chunk):
        return jax.tree.map(jnp.add, sums, jax.checkpoint(body)(*chunk)), None

    zero = jnp.zeros(())
    return jax.lax.scan(add, (zero, zero), tuple(cut(array) for array in arrays_BT))[0]
