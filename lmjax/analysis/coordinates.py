"""The coordinate check of muP: do activations change alike in models of any width?

Yang et al. 2022, "Tensor Programs V", appendix D.1. A few steps are trained at several widths. Where initial weights
and learning rates follow the width as they should, the change of each layer's output since the first step does not grow
with the width.

Axes: P places in the model, W widths.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.table import Table

from lmjax.analysis.picture import new_figure, save_picture, tidy
from lmjax.models.config import ModelConfig
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import MODEL, model_of
from lmjax.parallel.mesh import MeshConfig
from lmjax.train.config import RunConfig
from lmjax.train.corpus import Corpus
from lmjax.train.open_corpus import open_corpus
from lmjax.train.plan import Plan
from lmjax.train.setup import lay_out, learner_on, resolve
from lmjax.train.step import Learner, step_keys
from lmjax.types import Rows

STEEP = 0.3
"""The exponent of the width from which on a change is said to grow with it, or to shrink."""


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """What a coordinate check has measured.

    Attributes:
      widths: the widths of the models, rising.
      places: the names of the places: the embeddings, each layer, the logits.
      sizes_WP: the mean absolute activation before the first step, float64 [W, P].
      changes_WP: the mean absolute change of the activations by the steps, float64 [W, P].
      steps: the number of steps.
    """

    widths: tuple[int, ...]
    places: tuple[str, ...]
    sizes_WP: np.ndarray
    changes_WP: np.ndarray
    steps: int

    @property
    def exponents(self) -> np.ndarray:
        """For each place, a in ``change = factor * width^a``, by least squares over the logarithms, float64 [P]."""
        logs_WP = np.log(np.maximum(self.changes_WP, 1e-30))
        return np.polyfit(np.log(self.widths), logs_WP, 1)[0]

    @property
    def verdict(self) -> str:
        """A sentence that says whether the changes depend on the width."""
        highest = int(np.argmax(np.abs(self.exponents)))
        exponent = float(self.exponents[highest])
        if abs(exponent) < STEEP:
            return "the changes hardly depend on the width: a learning rate found at one width serves the others"
        how = "grows" if exponent > 0 else "shrinks"
        return f"the change of {self.places[highest]} {how} with the width, as width^{exponent:.2f}"


def at_width(model: ModelConfig, width: int) -> ModelConfig:
    """Returns a model of another width: as wide heads, but more or fewer of them, and a feed-forward in proportion.

    Raises:
      ValueError: the number of heads would not be whole, or the model has sizes that this does not know to change.
    """
    if model.latent.rank or model.experts.number or model.recurrent or model.encoder_layers:
        raise ValueError(
            "a coordinate check knows how to widen models of attention and feed-forward layers with one stack: "
            "not latent attention, experts, recurrent layers or encoder-decoders"
        )
    sizes = {"num_heads": model.num_heads, "num_kv_heads": model.num_kv_heads, "embedding_width": model.embedding_width}
    sizes |= {"feedforward_width": model.feedforward_width}
    changed: dict[str, Any] = {"width": width}
    for name, size in sizes.items():
        if not size:
            continue
        if size * width % model.width:
            raise ValueError(
                f"widths: model.{name}={size} of width {model.width} would be {size * width / model.width:g} at width "
                f"{width}: choose multiples of {model.width // np.gcd(size, model.width)}"
            )
        changed[name] = size * width // model.width
    execution = dataclasses.replace(model.execution, remat="none")
    return dataclasses.replace(model, **changed, execution=execution)


def check_coordinates(
    config: RunConfig, widths: Sequence[int], *, steps: int = 4, say: Callable[[str], object] = lambda _: None
) -> Coordinates:
    """Trains a few steps at several widths on one device, and measures the activations on the first batch.

    Args:
      config: the configuration of the run, whose data, optimizer and learning rate are used.
      widths: the widths, at least two.
      steps: the number of steps.
      say: called with a line when a width is done.

    Raises:
      ValueError: there are fewer than two widths, or one of them is impossible.
    """
    widths = sorted(set(widths))
    if len(widths) < 2 or widths[0] < 1:
        raise ValueError(f"widths={' '.join(map(str, widths))}: name at least two different widths above 0")
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    train = dataclasses.replace(config.train, microbatches=1, gradient_noise=False, sequence_warmup=(), ema_decay=None)
    config = dataclasses.replace(config, mesh=MeshConfig(), train=train)
    configs = [dataclasses.replace(config, model=at_width(config.model, width)) for width in widths]
    corpus = open_corpus(config.data, config.tokenizer)
    sizes, changes = [], []
    places: tuple[str, ...] = ()
    for width, one in zip(widths, configs, strict=True):
        places, before, change = _measure(one, corpus, steps)
        sizes.append(before)
        changes.append(change)
        say(f"width {width}: done")
    return Coordinates(tuple(widths), places, np.array(sizes), np.array(changes), steps)


def _measure(config: RunConfig, corpus: Corpus, steps: int) -> tuple[tuple[str, ...], list[float], list[float]]:
    layout = lay_out(config, devices=jax.local_devices()[:1])
    config = resolve(config, corpus.tokenizer.vocabulary)
    learner = learner_on(layout, config, corpus.tokenizer.vocabulary)
    rows = layout.curriculum.rows(corpus, seed=config.train.seed)
    plan = Plan(config=config, curriculum=layout.curriculum, corpus=corpus, learner=learner, rows=rows, evaluations=())
    state = learner.init(config.train.seed)
    look = jax.jit(lambda params, rows, key: _activations(learner, params, rows, key))
    key = jnp.copy(state.key)
    with jax.set_mesh(learner.mesh), contextlib.closing(plan.batches(layout.curriculum, start_step=0)) as batches:
        first = next(batches)
        before = look(state.params, first, key)
        for batch in itertools.islice(itertools.chain([first], batches), steps):
            state, _ = learner.train_step(state, batch)
        after = look(state.params, first, key)
    sizes = {name: float(jnp.abs(array).mean()) for name, array in before.items()}
    changes = [float(jnp.abs(after[name] - before[name]).mean()) for name in before]
    return tuple(sizes), list(sizes.values()), changes


def _activations(learner: Learner, params: Any, rows: Rows, key: jax.Array) -> dict[str, jax.Array]:
    """Returns the residual stream after the embeddings and after each layer, and the logits, in float32, by name."""
    batch = learner.objective.for_evaluation().corrupt(step_keys(key, 0)[0], rows, learner.vocabulary)
    model = model_of(learner.spec.bind(params))
    if not isinstance(model, Transformer):
        raise ValueError(f"a coordinate check needs a model of tokens, and {MODEL} is a {type(model).__name__}")
    stream = batch.inputs
    x_BTD = model.embed(stream)
    found = {"embeddings": x_BTD}
    for layer, block in enumerate(model.layers()):
        hidden = model.run_block(block, x_BTD, stream.positions_BT, stream.mask, layer=layer, valid_BT=stream.valid_BT)
        x_BTD = hidden.states_BTD
        found[f"layer {layer + 1}"] = x_BTD
    found["logits"] = model.logits(model.normalised(x_BTD))
    return {name: array.astype(jnp.float32) for name, array in found.items()}


def table(found: Coordinates) -> Table:
    """Returns a table for people: the change of each place at each width, and the exponent of the width."""
    rows = Table(f"mean change after {found.steps} steps", box=box.SIMPLE_HEAD, pad_edge=False)
    for width in found.widths:
        rows.add_column(f"width {width}", justify="right")
    rows.add_column("grows as width^", justify="right")
    for place, changes_W, exponent in zip(found.places, found.changes_WP.T, found.exponents, strict=True):
        rows.add_row(place, *(f"{change:.4g}" for change in changes_W), f"{exponent:+.2f}")
    return rows


def plot_coordinates(found: Coordinates, output: str | os.PathLike) -> pathlib.Path:
    """Draws sizes before and changes after the steps over the width, one line a place; the ending decides the format.

    Raises:
      ValueError: matplotlib is not installed, or such a file cannot exist.
    """
    figure = new_figure(figsize=(9, 4), dpi=130)
    from matplotlib import colormaps

    pairs = (("size before the first step", found.sizes_WP), (f"change after {found.steps} steps", found.changes_WP))
    for axes, (title, values_WP) in zip(figure.subplots(1, 2), pairs, strict=True):
        for index, (place, values_W) in enumerate(zip(found.places, values_WP.T, strict=True)):
            colour = colormaps["viridis"](0.9 * index / max(len(found.places) - 1, 1))
            axes.plot(found.widths, values_W, marker="o", markersize=4, color=colour, label=place)
        axes.set(xscale="log", yscale="log", xlabel="width", title=title)
        axes.set_xticks(found.widths, [str(width) for width in found.widths], minor=False)
        axes.minorticks_off()
        tidy(axes)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_picture(figure, output)
