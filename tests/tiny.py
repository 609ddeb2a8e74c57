"""Small things the tests share: a vocabulary, models, packed rows, a learner."""

import dataclasses
import itertools
import pathlib
import types
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmjax.models.config import ModelConfig
from lmjax.models.head import Head
from lmjax.models.hidden import Hidden
from lmjax.models.parameters import ModuleSpec, module_spec
from lmjax.models.routing import ExpertsConfig
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import trained_spec
from lmjax.objectives import CausalLM, Objective
from lmjax.parallel.mesh import MeshConfig, make_mesh
from lmjax.schedules.learning_rate import ScheduleConfig, build_schedule
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.optimizers import AdamW, Optimizer, average_of, build_optimizer
from lmjax.train.state import TrainState
from lmjax.train.step import Learner
from lmjax.types import Rows

VOCABULARY = Vocabulary(
    size=64, pad_id=60, bos_id=61, eos_id=62, mask_id=63, byte_length_V=np.array([1] * 60 + [0] * 4, np.int32)
)
MODEL = ModelConfig(vocab_size=64, width=16, num_layers=2, num_heads=2, feedforward_width=32)


def model_spec(config: ModelConfig = MODEL) -> ModuleSpec:
    return module_spec(lambda key: Transformer(config, rngs=nnx.Rngs(params=key)))


class FixedLogits:
    """A model that says the same whatever it reads."""

    def __init__(self, logits_BTV):
        self.logits_BTV = logits_BTV
        self.config = types.SimpleNamespace(vocab_size=logits_BTV.shape[-1], experts=ExpertsConfig())

    def __call__(self, stream, *, key=None):
        return Hidden(self.logits_BTV, None)

    def head(self):
        return Head(jnp.eye(self.logits_BTV.shape[-1]), None, None)

    def head_states(self, hidden):
        return hidden


def random_params(spec: ModuleSpec, seed: int = 0, scale: float = 0.3):
    """Parameters far from their initial values, so that no path of the model is near the identity."""
    leaves, structure = jax.tree.flatten(spec.shapes)
    rng = np.random.default_rng(seed)
    values = [jnp.asarray(rng.normal(size=leaf.shape) * scale, jnp.float32) for leaf in leaves]
    params = jax.tree.unflatten(structure, values)
    return jax.tree.map(lambda value, kind: value + 1 if kind == "norm" else value, params, spec.kinds)


def segments(lengths: list[list[int]], length: int) -> np.ndarray:
    """Rows with documents of these lengths, then padding."""
    rows = np.zeros((len(lengths), length), np.int32)
    for row, document_lengths in zip(rows, lengths, strict=True):
        bounds = np.cumsum([0, *document_lengths])
        for number, (start, end) in enumerate(itertools.pairwise(bounds), start=1):
            row[start:end] = number
    return rows


def random_rows(length: int, *, num_rows: int = 8, packed: bool = True, seed: int = 0) -> Rows:
    """Rows of random text ids, small ones the likelier; packed ones hold very different numbers of tokens."""
    rng = np.random.default_rng(seed)
    tokens_BT = (60 * rng.random((num_rows, length)) ** 3).astype(np.int32)
    if not packed:
        return Rows(tokens_BT=jnp.asarray(tokens_BT))
    lengths = [[max(2, length // 4), max(1, (length // 2) * row // num_rows)] for row in range(num_rows)]
    return Rows(tokens_BT=jnp.asarray(tokens_BT), segments_BT=jnp.asarray(segments(lengths, length)))


def learner(
    objective: Objective | None = None,
    *,
    model: ModelConfig = MODEL,
    mesh: MeshConfig | None = None,
    num_devices: int = 1,
    optimizer: Optimizer | None = None,
    **options,
) -> Learner:
    objective = objective or CausalLM()
    optimizer = optimizer or AdamW(learning_rate=1e-2)
    spec = trained_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))
    schedule = build_schedule(ScheduleConfig(kind="constant"), total_steps=100)
    built = Learner(
        spec=spec,
        objective=objective,
        vocabulary=VOCABULARY,
        optimizer=build_optimizer(optimizer, schedule=schedule, kinds=spec.kinds, axes=spec.axes),
        learning_rate=lambda step: optimizer.learning_rate * schedule(step),
        mesh=make_mesh(mesh or MeshConfig(), jax.devices()[:num_devices]),
        clip_norm=optimizer.clip_norm,
        average=average_of(optimizer, spec.kinds),
    )
    return dataclasses.replace(built, **options)


def train_losses(built: Learner, *, steps: int, packed: bool = True, length: int = 16) -> list[float]:
    """Losses of the first steps on fixed random rows, another batch each step."""
    length = built.objective.row_length(length)
    metrics = train_metrics(built, [random_rows(length, packed=packed, seed=step) for step in range(steps)])
    return [numbers["loss"] for numbers in metrics]


def train_metrics(
    built: Learner, batches: Sequence[Rows], *, start: TrainState | None = None, saved_in: pathlib.Path | None = None
) -> list[dict[str, float]]:
    """What each step reports; with ``saved_in`` the state after the first is saved there and read back.

    ``start`` is the state to begin with, of any layout: one that is initialised once costs fewer compilations.
    """
    metrics = []
    # The step donates its state, and this one may be needed again.
    state = built.init(0) if start is None else jax.device_put(jax.tree.map(jnp.copy, start), built.state_shardings)
    with jax.set_mesh(built.mesh):
        for step, rows in enumerate(batches):
            state, numbers = built.train_step(state, jax.device_put(rows, built.row_sharding))
            metrics.append({name: float(value) for name, value in numbers.items()})
            if saved_in is not None and step == 0:
                with Checkpoints(saved_in) as checkpoints:
                    checkpoints.save(1, state)
                    checkpoints.wait()
                    state, _ = checkpoints.restore(built.abstract_state)
    return metrics


def one_text_a_row(texts: list[np.ndarray], length: int) -> Rows:
    """Texts without company: each fills a row from its beginning."""
    padded = [np.pad(text, (0, length - len(text)), constant_values=VOCABULARY.pad_id) for text in texts]
    return Rows(
        tokens_BT=jnp.asarray(np.stack(padded), jnp.int32),
        segments_BT=jnp.asarray(segments([[len(text)] for text in texts], length)),
    )


def example_rows(num_members: int, length: int, *, num_rows: int = 8, prompt: int = 0, seed: int = 0) -> Rows:
    """Rows of several texts in stretches of ``length``; they begin with ``prompt`` tokens of weight 0."""
    rng = np.random.default_rng(seed)
    tokens_BT = (60 * rng.random((num_rows, num_members * length)) ** 3).astype(np.int32)
    sizes_BM1 = rng.integers(prompt + 2, length + 1, (num_rows, num_members, 1))
    index_11S, member_1M1 = np.arange(length)[None, None, :], np.arange(1, num_members + 1)[None, :, None]
    segments_BT = np.where(index_11S < sizes_BM1, member_1M1, 0).reshape(num_rows, -1)
    weights_BT = np.tile(np.arange(length) >= prompt, (num_rows, num_members)) * (segments_BT > 0)
    return Rows(
        tokens_BT=jnp.asarray(np.where(segments_BT > 0, tokens_BT, VOCABULARY.pad_id)),
        segments_BT=jnp.asarray(segments_BT, jnp.int32),
        weights_BT=jnp.asarray(weights_BT, jnp.float32) if prompt else None,
    )
