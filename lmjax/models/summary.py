"""The size and the cost of a model: its parameters, FLOPs for a token, and bytes of training state."""

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
from lmjax.models.with_extras import EXTRAS, MODEL
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """The sizes of a model in training.

    Attributes:
      components: the number of parameters in each part of the model (``attention``: of all layers together).
      embedding_parameters: how many of them are in tables whose rows are looked up, without a matrix product.
      idle_parameters: how many of them are in experts that a token does not go to.
      read_products: the number of parameters that multiply a token that an encoder reads; 0 without an encoder.
      written_products: the number that multiply a token of the other stack, its output layer included.
      flops_per_token: floating point operations of the forward and backward pass for one token (for one token of the
        encoder, if there is one).
      held_bytes: bytes of each part of the training state, on the device that holds most of it.
    """

    components: dict[str, int]
    embedding_parameters: int
    idle_parameters: int
    read_products: float
    written_products: float
    flops_per_token: int
    held_bytes: dict[str, int]

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(self.components.values())


def summarize(
    spec: ModuleSpec,
    config: ModelConfig,
    *,
    sequence_length: int,
    decoder_length: int | None = None,
    held: Mapping[str, PyTree] | None = None,
) -> ModelSummary:
    """Returns the numbers of parameters, FLOPs and bytes of a model in training.

    A token costs ``6 n + 12 L N H s`` FLOPs (PaLM, appendix B). ``n`` is the number of parameters that multiply
    activations, the head included. ``s`` is the number of keys that a query is multiplied with: the window or the
    sequence length (a causal kernel would need only half of them; the convention counts all). Frozen parameters have no
    backward pass and cost ``2 n``.

    In an encoder-decoder, two groups of parameters are applied to the ``sequence_length`` tokens that the encoder
    reads: the encoder's own, and those that make the decoder's keys and values from the encoder's states. All others
    are applied to the ``decoder_length`` tokens of the decoder, each of which is also multiplied with all of the
    encoder's keys. The sum for a row is divided by ``sequence_length``, the tokens that throughput counts.

    Args:
      spec: the description of the module.
      config: the configuration of the model.
      sequence_length: T; the length of the encoder's rows, if there is an encoder.
      decoder_length: the decoder's positions for such a row; ``sequence_length`` when unset.
      held: the parts of the training state on the devices, by name, as arrays or shapes.
    """
    sizes = {
        _without_root(tuple(entry.key for entry in path)): math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(spec.shapes)
    }
    components: collections.Counter[str] = collections.Counter()
    for path, size in sizes.items():
        components[_component(path)] += size
    axes = jax.tree.leaves(spec.axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    of_experts = {path: size for (path, size), names in zip(sizes.items(), axes, strict=True) if "experts" in names}
    kinds = dict(zip(sizes, jax.tree.leaves(spec.kinds), strict=True))
    products = {path: size for path, size in sizes.items() if kinds[path] not in ("embedding", "position")}
    embedding = components.total() - sum(products.values())
    idle = {path: size - size * config.experts.per_token // config.experts.number for path, size in of_experts.items()}
    products = {
        path: (size - idle.get(path, 0)) / (3 if kinds[path] == "frozen" else 1) for path, size in products.items()
    }
    read, written = _applied(products, config)
    return ModelSummary(
        components=dict(components),
        embedding_parameters=embedding,
        idle_parameters=sum(idle.values()),
        read_products=read,
        written_products=written,
        flops_per_token=_flops_per_token(read, written, config, sequence_length, decoder_length or sequence_length),
        held_bytes={name: _bytes_on_a_device(tree) for name, tree in (held or {}).items()},
    )


def _applied(products: Mapping[tuple[str, ...], float], config: ModelConfig) -> tuple[float, float]:
    """Returns how many parameters multiply a token that an encoder reads, and a token of the other stack.

    ``products`` holds the number of parameters that multiply activations, by path; a frozen one counts as 1/3.
    """
    read, written = 0.0, float(config.vocab_size * config.table_width if config.tie_embeddings else 0)
    for path, size in products.items():
        own = config.encoder if path[0] == "encoder" else config
        uses = own.num_layers if config.share_layers and "tail" in path else 1
        of_encoder = path[0] == "encoder" or ("cross_attention" in path and {"key", "value"} & {*path})
        read, written = (read + uses * size, written) if of_encoder else (read, written + uses * size)
    return read, written


def _flops_per_token(
    read: float, written: float, config: ModelConfig, sequence_length: int, decoder_length: int
) -> int:
    """Returns the FLOPs for a token, see :func:`summarize`; ``read`` and ``written`` are those of :func:`_applied`."""
    if not config.encoder_layers:
        return round(6 * written) + attention_flops(config, sequence_length)
    cross = 12 * config.num_layers * config.num_heads * config.key_width * sequence_length
    reading = sequence_length * (6 * read + attention_flops(config.encoder, sequence_length))
    writing = decoder_length * (6 * written + attention_flops(config, decoder_length) + cross)
    return round((reading + writing) / sequence_length)


def attention_flops(config: ModelConfig, length: int) -> int:
    """Returns the FLOPs of :func:`layer_attention_flops` in all layers of a stack."""
    return sum(layer_attention_flops(config, length, layer) for layer in range(config.num_layers))


def layer_attention_flops(config: ModelConfig, length: int, layer: int) -> int:
    """Returns the FLOPs of a token's products with keys and values of its own sequence, forward and backward."""
    window = config.windows[layer % len(config.windows)]
    widths = config.attention_width + config.value_width
    return 6 * config.num_heads * widths * min(length, window or length)


def _without_root(path: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the path of a parameter of a trained module, without its first key, ``model`` or ``extras``."""
    return path[1:] if path[0] in (MODEL, EXTRAS) else path


def _component(path: tuple[str, ...]) -> str:
    """Returns the part of the model that a parameter belongs to, by its path.

    ``stacks/000/attention/query/weight`` belongs to ``attention``, ``head_bias_V`` to ``head``, any norm to ``norms``.
    """
    name = next(part for part in path if not part.isdecimal() and part not in ("lead", "stacks", "tail"))
    if name.endswith("norm"):
        return "norms"
    return re.sub(r"(_(weight|bias))?(_[A-Z]+)?$", "", name)


def _bytes_on_a_device(tree: PyTree) -> int:
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def table(summary: ModelSummary) -> Table:
    """Returns a table for people: the parameters of each component, the FLOPs for a token, the memory of each use."""
    rows = Table("model", box=box.SIMPLE_HEAD, pad_edge=False)
    rows.add_column("number", justify="right")
    rows.add_column("share", justify="right")
    for name, number in sorted(summary.components.items(), key=lambda item: -item[1]):
        rows.add_row(name.replace("_", " "), f"{number:,}", f"{number / summary.parameters:.1%}")
    rows.add_row("all parameters", f"{summary.parameters:,}", "100%", style="bold")
    if summary.idle_parameters:
        active = summary.parameters - summary.idle_parameters
        rows.add_row("active for a token", f"{active:,}", f"{active / summary.parameters:.1%}")
    rows.add_section()
    rows.add_row("FLOPs of a token", f"{summary.flops_per_token:,}", end_section=True)
    total = sum(summary.held_bytes.values())
    for name, size in summary.held_bytes.items():
        if size:
            rows.add_row(f"memory: {name}", _in_units(size), f"{size / total:.1%}")
    if total:
        rows.add_row("memory of a device", _in_units(total), "100%", style="bold")
    return rows


def describe(summary: ModelSummary) -> str:
    """Returns the :func:`table` as lines of plain text."""
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with console.capture() as captured:
        console.print(table(summary))
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


def _in_units(size: int) -> str:
    power = min(int(math.log(max(size, 1), 1024)), 4)
    return f"{size / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
