"""How large a model is and what a token costs: parameters, FLOPs, bytes of training state."""

import collections
import dataclasses
import io
import math
import re
from collections.abc import Mapping

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from lmjax.models.config import ModelConfig
from lmjax.models.parameters import ModuleSpec
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Sizes of a model under training.

    Attributes:
      components: number of parameters by part of the model (``attention``: that of all layers).
      embedding_parameters: of all, those in rows that are looked up and take part in no product.
      flops_per_token: floating point operations of forward and backward pass for one token.
      held_bytes: bytes on the device that holds most, by what they are of.
    """

    components: dict[str, int]
    embedding_parameters: int
    flops_per_token: int
    held_bytes: dict[str, int]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(self.components.values())


def summarize(
    spec: ModuleSpec, config: ModelConfig, *, sequence_length: int, held: Mapping[str, PyTree] | None = None
) -> ModelSummary:
    """Counts what there is to count.

    FLOPs are ``6 n + 12 L N H s`` for a token (PaLM, appendix B): ``n`` parameters that multiply
    activations, the head included, and ``s`` keys a query is multiplied with, which is the window
    or the sequence length (half of it would be enough for causal kernels; the convention counts all).

    Args:
      spec: the module.
      config: its configuration.
      sequence_length: T.
      held: what training keeps on the devices, by name, as arrays or shapes.
    """
    sizes = {
        tuple(entry.key for entry in path): math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(spec.shapes)
    }
    components: collections.Counter[str] = collections.Counter()
    for path, size in sizes.items():
        components[_component(path)] += size
    kinds = jax.tree.leaves(spec.kinds)
    embedding = sum(size for size, kind in zip(sizes.values(), kinds, strict=True) if kind == "embedding")
    head = config.vocab_size * config.width if config.tie_embeddings else 0
    seen_keys = sum(
        min(sequence_length, config.windows[layer % len(config.windows)] or sequence_length)
        for layer in range(config.num_layers)
    )
    attention = 12 * config.num_heads * config.key_width * seen_keys
    return ModelSummary(
        components=dict(components),
        embedding_parameters=embedding,
        flops_per_token=6 * (components.total() - embedding + head) + attention,
        held_bytes={name: _bytes_on_a_device(tree) for name, tree in (held or {}).items()},
    )


def _component(path: tuple[str, ...]) -> str:
    """``attention`` of ``stacks/000/attention/query/weight``, ``head`` of ``head_bias_V``, ``norms`` of any norm."""
    name = next(part for part in path if not part.isdecimal() and part not in ("stacks", "tail"))
    if name.endswith("norm"):
        return "norms"
    return re.sub(r"_(weight|bias)(_[A-Z]+)?$", "", name)


def _bytes_on_a_device(tree: PyTree) -> int:
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def table(summary: ModelSummary) -> Table:
    """The summary for people: parameters by component, FLOPs of a token, memory by use."""
    rows = Table("model", box=box.SIMPLE_HEAD, pad_edge=False)
    rows.add_column("number", justify="right")
    rows.add_column("share", justify="right")
    for name, number in sorted(summary.components.items(), key=lambda item: -item[1]):
        rows.add_row(name.replace("_", " "), f"{number:,}", f"{number / summary.parameters:.1%}")
    rows.add_row("all parameters", f"{summary.parameters:,}", "100%", style="bold", end_section=True)
    rows.add_row("FLOPs of a token", f"{summary.flops_per_token:,}", end_section=True)
    total = sum(summary.held_bytes.values())
    for name, size in summary.held_bytes.items():
        if size:
            rows.add_row(f"memory: {name}", _in_units(size), f"{size / total:.1%}")
    if total:
        rows.add_row("memory of a device", _in_units(total), "100%", style="bold")
    return rows


def describe(summary: ModelSummary) -> str:
    """The :func:`table` as lines of plain text."""
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with console.capture() as captured:
        console.print(table(summary))
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


def _in_units(size: int) -> str:
    power = min(int(math.log(max(size, 1), 1024)), 4)
    return f"{size / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
