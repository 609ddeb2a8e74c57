"""Training steps of a GPT as a first program on Flax NNX has it, for `steps.py`.

Attention by `nnx.MultiHeadAttention` under a mask of [T, T], logits of the whole batch, optax's cross entropy, and
`nnx.jit` around it all.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from steps import Shape
from turns import resident_peak, serve


class Block(nnx.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        """Builds the layers."""
        width = shape.width
        self.attention_norm = nnx.LayerNorm(width, use_bias=False, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(shape.heads, width, use_bias=False, decode=False, rngs=rngs)
        self.feedforward_norm = nnx.LayerNorm(width, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, shape.hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(shape.hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), mask=mask)
        return x_BTD + self.down(nnx.gelu(self.up(self.feedforward_norm(x_BTD)), approximate=False))


class GPT(nnx.Module):
    """The decoder, with its head tied to the embedding."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        """Builds the layers."""
        normal = nnx.initializers.normal(0.02)
        self.tokens = nnx.Embed(shape.vocabulary, shape.width, embedding_init=normal, rngs=rngs)
        self.positions = nnx.Embed(shape.length, shape.width, embedding_init=normal, rngs=rngs)
        self.blocks = nnx.List([Block(shape, rngs) for _ in range(shape.layers)])
        self.norm = nnx.LayerNorm(shape.width, use_bias=False, rngs=rngs)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """Returns logits [B, T, V]."""
        mask_B1TT = nnx.make_causal_mask(tokens_BT)
        x_BTD = self.tokens(tokens_BT) + self.positions(jnp.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_B1TT)
        return self.tokens.attend(self.norm(x_BTD))


@nnx.jit
def train_step(model: GPT, optimizer: nnx.Optimizer, inputs_BT: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Updates the model in place, and returns the loss."""

    def loss(model: GPT) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(inputs_BT), targets_BT).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main() -> None:
    """Compiles the step, takes a few and serves blocks of steps."""
    shape = Shape.from_json(sys.argv[1])
    assert shape.family == "gpt" and shape.dtype == "float32"
    model = GPT(shape, nnx.Rngs(0))
    adamw = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b2=0.95, weight_decay=0.1))
    optimizer = nnx.Optimizer(model, adamw, wrt=nnx.Param)
    draw = np.random.default_rng(0)
    text = draw.integers(0, shape.vocabulary, 1_000_000).astype(np.int32)

    def steps(count: int) -> None:
        loss = None
        for _ in range(count):
            starts = draw.integers(0, len(text) - shape.length - 1, (shape.batch, 1))
            rows = text[starts + np.arange(shape.length + 1)]
            loss = train_step(model, optimizer, jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, 1:]))
        jax.block_until_ready(loss)

    steps(3)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    serve(steps, facts={"parameters": parameters, "versions": f"jax {jax.__version__}"}, peak=resident_peak)


if __name__ == "__main__":
    main()
