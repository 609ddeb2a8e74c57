"""How large a model is and what a token costs: parameters, FLOPs, bytes of training state."""

import dataclasses
import math

import jax

from lmjax.models.config import ModelConfig
from lmjax.models.parameters import ModuleSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Sizes of a model under training.

    Attributes:
      parameters: number of parameters.
      embedding_parameters: of those, rows that are looked up and take part in no product.
      flops_per_token: floating point operations of forward and backward pass for one token.
      state_bytes: parameters, gradients and optimizer state, over all devices.
      largest: path and shape of the largest leaves.
    """

    parameters: int
    embedding_parameters: int
    flops_per_token: float
    state_bytes: int
    largest: list[tuple[str, tuple[int, ...]]]


def summarize(spec: ModuleSpec, config: ModelConfig, *, sequence_length: int, opt_state=()) -> ModelSummary:
    """Counts what there is to count.

    FLOPs are ``6 n + 12 L N H s`` for a token (PaLM, appendix B): ``n`` parameters that multiply
    activations, the head included, and ``s`` keys a query is multiplied with, which is the window
    or the sequence length (half of it would be enough for causal kernels; the convention counts all).

    Args:
      spec: the module.
      config: its configuration.
      sequence_length: T.
      opt_state: optimizer state, as arrays or shapes.
    """
    leaves = [
        ("/".join(str(entry.key) for entry in path), math.prod(leaf.shape), leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(spec.shapes)
    ]
    kinds = jax.tree.leaves(spec.kinds)
    parameters = sum(size for _, size, _ in leaves)
    embedding = sum(size for (_, size, _), kind in zip(leaves, kinds, strict=True) if kind == "embedding")
    head = config.vocab_size * config.width if config.tie_embeddings else 0
    seen_keys = sum(
        min(sequence_length, config.windows[layer % len(config.windows)] or sequence_length)
        for layer in range(config.num_layers)
    )
    attention = 12 * config.num_heads * config.key_width * seen_keys
    return ModelSummary(
        parameters=parameters,
        embedding_parameters=embedding,
        flops_per_token=6 * (parameters - embedding + head) + attention,
        state_bytes=8 * parameters + sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(opt_state)),
        largest=[(path, shape) for path, _, shape in sorted(leaves, key=lambda leaf: -leaf[1])[:5]],
    )


def describe(summary: ModelSummary) -> str:
    """The summary in a line."""
    return (
        f"{summary.parameters:,} parameters ({summary.embedding_parameters:,} in embeddings), "
        f"{summary.flops_per_token / 1e6:,.1f} MFLOP a token, "
        f"{summary.state_bytes / 2**20:,.0f} MiB of parameters, gradients and optimizer state"
    )
