"""How likely each scored token of many windows is to a model, and how sure and how right the model is about it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.models.head import gathered_head
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.with_extras import model_of
from lmjax.objectives.parts.logit_chunks import chunk_length, map_over_chunks
from lmjax.parallel.mesh import constrain, mesh_axes_of
from lmjax.train.evaluations.windows import PackedWindows, Window, packed
from lmjax.train.step import Learner
from lmjax.types import make_stream

Scores = tuple[jax.Array, jax.Array, jax.Array]

TOKENS_AT_ONCE = 2**14
"""The number of tokens of a batch where nothing else is asked for, unless a row is longer."""


@dataclasses.dataclass(frozen=True, eq=False)
class TokenScores:
    """What a model finds of the tokens of a window that are scored.

    Attributes:
      log_probability_N: float32, the natural logarithm of each token's probability.
      rank_N: int32, the number of tokens that come before it when all are sorted by probability; of equals the lower id
        comes first, so that rank 0 is the token that greedy decoding chooses.
      confidence_N: float32, the probability of the most likely token.
    """

    log_probability_N: np.ndarray
    rank_N: np.ndarray
    confidence_N: np.ndarray


class TokenScorer:
    """Scores windows with a causal mask, in batches of one shape, so that one program is compiled.

    Scorers of the same module share the program of a shape.
    """

    def __init__(self, learner: Learner, *, width: int, batch_size: int | None = None):
        """Prepares the program; nothing is compiled before it is needed.

        Args:
          learner: the module, on the learner's mesh.
          width: the number of positions of a row.
          batch_size: rows of a batch, a multiple of the number of devices that share a batch; by default as many as
            make 16,384 tokens.
        """
        self._learner, self._width = learner, width
        self._batch_size = batch_size or batch_size_for(learner, width)

    def __call__(
        self, params: Params, windows: Iterable[Window], *, after_batch: Callable[[], object] = lambda: None
    ) -> Iterator[tuple[Window, TokenScores]]:
        """Yields each window with the scores of its tokens, in order.

        Args:
          params: the parameters of the learner's module.
          windows: the windows, none longer than the width.
          after_batch: called after each batch.
        """
        waiting = None
        for batch in packed(windows, num_rows=self._batch_size, width=self._width):
            with jax.set_mesh(self._learner.mesh):
                arrays = (batch.inputs_BT, batch.targets_BT, batch.segments_BT)
                scores = _scores(params, *rows_on_devices(self._learner, *arrays), spec=self._learner.spec)
            # A batch is read when the next one is under way, so the device never waits.
            if waiting is not None:
                yield from _apart(*waiting)
                after_batch()
            waiting = batch, scores
        if waiting is not None:
            yield from _apart(*waiting)


def batch_size_for(learner: Learner, width: int) -> int:
    """Returns the number of rows of a width that make 16,384 tokens: a multiple of the devices that share a batch."""
    ways = math.prod(learner.mesh.shape.get(axis, 1) for axis in mesh_axes_of("batch"))
    return max(TOKENS_AT_ONCE // width // ways, 1) * ways


def rows_on_devices(learner: Learner, *arrays: np.ndarray) -> list[jax.Array]:
    """Returns arrays [B, ...], which every process holds whole, with their rows split over the learner's devices."""
    sharding = learner.row_sharding
    return [jax.make_array_from_callback(own.shape, sharding, own.__getitem__) for own in arrays]


def scores_of(logits_BCV: jax.Array, targets_BC: jax.Array) -> Scores:
    """Returns the arrays of :class:`TokenScores`, [B, C] each; those of a negative target mean nothing."""
    target_BC1 = jnp.maximum(targets_BC, 0)[..., None]
    own_BC1 = jnp.take_along_axis(logits_BCV, target_BC1, axis=-1)
    is_lower_BCV = jnp.arange(logits_BCV.shape[-1])[None, None, :] < target_BC1
    is_before_BCV = (logits_BCV > own_BC1) | ((logits_BCV == own_BC1) & is_lower_BCV)
    normaliser_BC = jax.nn.logsumexp(logits_BCV, axis=-1)
    return (
        own_BC1[..., 0] - normaliser_BC,
        jnp.sum(is_before_BCV, axis=-1, dtype=jnp.int32),
        jnp.exp(jnp.max(logits_BCV, axis=-1) - normaliser_BC),
    )


@functools.partial(jax.jit, static_argnames="spec")
def _scores(
    params: Params, inputs_BT: jax.Array, targets_BT: jax.Array, segments_BT: jax.Array, *, spec: ModuleSpec
) -> Scores:
    """The arrays of :class:`TokenScores` at every position, [B, T], whole on each device."""
    model = model_of(spec.bind(params))
    logits = gathered_head(model)

    def chunk(states_BCD: jax.Array, targets_BC: jax.Array) -> Scores:
        return scores_of(logits(states_BCD), targets_BC)

    states_BTD = model(make_stream(inputs_BT, segments_BT, "causal")).states_BTD
    length = chunk_length(inputs_BT.shape[0], model.config.vocab_size)
    found = map_over_chunks(chunk, length, states_BTD, targets_BT)
    return jax.tree.map(lambda array_BT: constrain(array_BT, None, None), found)


def _apart(batch: PackedWindows, scores: Scores) -> Iterator[tuple[Window, TokenScores]]:
    """Yields the windows of a batch, each with its own scores."""
    arrays = [np.asarray(array_BT) for array_BT in scores]
    for window, row, begin in batch.places:
        places = begin + window.scored
        yield window, TokenScores(*(array_BT[row, places] for array_BT in arrays))
