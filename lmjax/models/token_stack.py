"""A stack that reads tokens: it adds embeddings of token, position and segment before the blocks."""

import jax
from flax import nnx

from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import Embedding, Projection, dropout, make_norm, split_key
from lmjax.models.positions import sinusoidal
from lmjax.models.stack import Stack
from lmjax.parallel.mesh import constrain
from lmjax.types import Stream


class TokenStack(Stack):
    """Embeddings and blocks, which map ``[B, T]`` tokens to ``[B, T, D]`` hidden states."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        own_table: bool = True,
        source_width: int | None = None,
        rngs: nnx.Rngs,
    ):
        """Initialises all parameters.

        Args:
          config: the architecture; its ``vocab_size`` must be set.
          own_table: whether the stack has a token table of its own.
          source_width: width of the states that cross attention reads; None without cross attention.
          rngs: one key, under ``params``.
        """
        assert config.vocab_size > 0, "resolve the configuration with ModelConfig.with_vocabulary first"

        def embedding(num: int, axis: str) -> Embedding:
            std = embedding_std(config)
            return Embedding(num, config.table_width, axes=(axis, "embed"), std=std, rngs=rngs)

        self.embedding = nnx.data(embedding(config.vocab_size, "vocab") if own_table else None)
        self.position_embedding = nnx.data(
            embedding(config.max_length, "positions") if config.positions == "learned" else None
        )
        self.type_embedding = nnx.data(embedding(config.num_types, "types") if config.num_types else None)
        super().__init__(config, source_width=source_width, rngs=rngs)
        self.embedding_norm = nnx.data(make_norm(config, config.table_width) if config.embedding_norm else None)
        self.embedding_projection = nnx.data(
            None
            if config.embedding_width is None
            else Projection(
                {"embedding": config.embedding_width},
                {"embed": config.width},
                std=config.init_std,
                bias=True,
                dtype=config.dtype,
                rngs=rngs,
            )
        )

    def embed(self, stream: Stream, *, table: Embedding | None = None, key: jax.Array | None = None) -> jax.Array:
        """Returns the sum of the embeddings of tokens, absolute positions and segments, [B, T, D].

        Args:
          stream: tokens, positions, segment ids.
          table: the token table to use if the stack has none of its own.
          key: PRNG key of dropout.
        """
        config, dtype = self.config, self.config.dtype
        table = self.embedding if table is None else table
        assert table is not None
        x_BTE = table(stream.tokens_BT, dtype, config.execution.table_gradient)
        if config.scale_embeddings:
            x_BTE = x_BTE * config.width**0.5
        if config.embedding_scale != 1:
            x_BTE = x_BTE * config.embedding_scale
        if self.position_embedding is not None:
            x_BTE = x_BTE + self.position_embedding(stream.positions_BT, dtype)
        elif config.positions == "sinusoidal":
            x_BTE = x_BTE + sinusoidal(stream.positions_BT, config.table_width).astype(dtype)
        if self.type_embedding is not None:
            types_BT = stream.tokens_BT * 0 if stream.types_BT is None else stream.types_BT
            x_BTE = x_BTE + self.type_embedding(types_BT, dtype)
        if self.embedding_norm is not None:
            x_BTE = self.embedding_norm(x_BTE)
        x_BTE = dropout(x_BTE, config.dropout, key)
        x_BTD = x_BTE if self.embedding_projection is None else self.embedding_projection(x_BTE)
        return constrain(x_BTD, "batch", "length", None)

    def read(self, stream: Stream, *, table: Embedding | None = None, key: jax.Array | None = None) -> Hidden:
        """Runs the stack on a stream, without cross attention; the arguments are those of :meth:`embed`."""
        embed_key, run_key = split_key(key, 2)
        x_BTD = self.embed(stream, table=table, key=embed_key)
        return self.run(x_BTD, stream.positions_BT, stream.mask, valid_BT=stream.valid_BT, key=run_key)


def embedding_std(config: ModelConfig) -> float:
    """Returns the standard deviation of initial embeddings and of an untied head."""
    return config.base_std if config.embedding_init_std is None else config.embedding_init_std
