"""The transformer, which maps token streams to hidden states; the loss applies the head.

``model(stream).states_BTD`` works with every mask of a :class:`~lmjax.types.Stream`, so a causal decoder, a
bidirectional encoder and a prefix LM have the same parameters and differ in the mask. With ``encoder_layers``, a
second stack, the encoder, reads a stream of its own, and this stack attends to the encoder's states:
``model(stream, encoder=..., cross_mask=...)`` (Vaswani et al. 2017). Both stacks use the same code.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.masks import IntervalMask
from lmjax.models.cache import Cache, LayerCache
from lmjax.models.config import ModelConfig
from lmjax.models.head import Head
from lmjax.models.hidden import Hidden
from lmjax.models.layers import ACTIVATIONS, Projection, make_norm, parameter, split_key, turn_matrices, turned_product
from lmjax.models.routing import joined
from lmjax.models.token_stack import TokenStack, embedding_std
from lmjax.types import Stream


class Transformer(TokenStack):
    """Embedding, blocks, final norm and heads, and an encoder if the configuration has one."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Initialises all parameters.

        Args:
          config: the architecture; its ``vocab_size`` must be set.
          rngs: one key, under ``params``.
        """
        has_encoder = config.encoder_layers > 0
        super().__init__(config, source_width=config.encoder.width if has_encoder else None, rngs=rngs)
        self.encoder = nnx.data(
            TokenStack(config.encoder, own_table=not config.share_encoder_embedding, rngs=rngs) if has_encoder else None
        )
        if config.head_transform:
            self.head_dense = self._dense({"embed": config.width}, {"embedding": config.table_width}, rngs)
            self.head_norm = make_norm(config, config.table_width)
        if config.pooler:
            self.pooler = self._dense({"embed": config.width}, {"pooled": config.width}, rngs)
        if config.pair_head:
            self.pair_classifier = self._dense({"pooled": config.width}, {"classes": 2}, rngs)
        head_shape = (config.table_width if config.head_transform else config.width, config.vocab_size)
        self.head_weight_DV = nnx.data(
            None
            if config.tie_embeddings
            else parameter(
                embedding_std(config) * jax.random.normal(rngs.params(), head_shape), ("embed", "vocab"), "matrix"
            )
        )
        self.head_bias_V = nnx.data(
            parameter(jnp.zeros((config.vocab_size,)), ("vocab",), "bias") if config.head_bias else None
        )
        # What a tied head reads in place of the embedding's table, see `lmjax.models.tied`.
        self.head_table_VD: jax.Array | None = nnx.data(None)
        self.turned = False

    def _dense(self, in_axes: dict[str, int], out_axes: dict[str, int], rngs: nnx.Rngs) -> Projection:
        config = self.config
        return Projection(in_axes, out_axes, std=config.matrix_std, bias=config.bias, dtype=config.dtype, rngs=rngs)

    def __call__(
        self,
        stream: Stream,
        *,
        encoder: Stream | None = None,
        cross_mask: IntervalMask | None = None,
        key: jax.Array | None = None,
    ) -> Hidden:
        """Runs the encoder, if there is one, and then the model.

        Args:
          stream: tokens, positions and mask.
          encoder: the stream that the encoder reads, for models that have one.
          cross_mask: which of the encoder's positions each position of ``stream`` sees.
          key: PRNG key of dropout; None for none.

        Returns:
          The states after the final norm, [B, T, D] in ``config.dtype``, and the routing statistics of all layers with
          experts; those of the encoder come first.
        """
        encoder_key, embed_key, run_key = split_key(key, 3)
        source = None if encoder is None else self.encode(encoder, key=encoder_key)
        hidden = self.run(
            self.embed(stream, key=embed_key),
            stream.positions_BT,
            stream.mask,
            source_BSD=None if source is None else source.states_BTD,
            cross_mask=cross_mask,
            valid_BT=stream.valid_BT,
            key=run_key,
        )
        return hidden if source is None else Hidden(hidden.states_BTD, joined([source.routing, hidden.routing]))

    def encode(self, stream: Stream, *, key: jax.Array | None = None) -> Hidden:
        """Runs the encoder and returns its states [B, S, D'], with the statistics of its routing.

        Raises:
          ValueError: the model has no encoder.
        """
        if self.encoder is None:
            raise ValueError("model.encoder_layers=0: the model has no encoder to read a second stream with")
        table = self.embedding if self.config.share_encoder_embedding else None
        return self.encoder.read(stream, table=table, key=key)

    def extend(
        self,
        stream: Stream,
        caches: tuple[Cache, ...],
        *,
        sources: tuple[LayerCache, ...] | None = None,
        cross_mask: IntervalMask | None = None,
    ) -> tuple[jax.Array, tuple[Cache, ...]]:
        """Returns the hidden states of new tokens, which attend to cached ones, for decoding.

        Args:
          stream: the new tokens; ``positions_BT`` are also the cache slots they are written to, and
            the mask's intervals are over slots.
          caches: one cache for each layer, see :func:`lmjax.models.cache.empty_cache`.
          sources: ``self.remember(self.encode(...).states_BTD)``, for models with an encoder.
          cross_mask: which of the encoder's positions each new token sees.

        Returns:
          The hidden states [B, T, D], and the caches with the new keys and values.
        """
        x_BTD = self.embed(stream)
        return self.run_cached(x_BTD, stream.positions_BT, stream.mask, caches, sources=sources, cross_mask=cross_mask)

    def head(self) -> Head:
        """Returns the output map for :meth:`head_states`, in float32, so that a loss sums its gradient in float32."""
        assert self.embedding is not None
        if self.head_weight_DV is None:
            table_VD = self.embedding.table_VD[...] if self.head_table_VD is None else self.head_table_VD
            weight_DV = table_VD.T
        else:
            weight_DV = self.head_weight_DV[...].T if self.turned else self.head_weight_DV[...]
        bias_V = None if self.head_bias_V is None else self.head_bias_V[...]
        return Head(weight_DV, bias_V, self.config.logit_softcap)

    def head_states(self, hidden: jax.Array) -> jax.Array:
        """Returns the states that the output map reads, [..., E]: hidden states after the head's own layers, if any.

        BERT's head has the layers ``norm(act(h W + b))`` (Devlin et al. 2019, as released). A loss calls this
        on the scored positions only.
        """
        if self.config.head_transform:
            hidden = self.head_norm(ACTIVATIONS[self.config.activation](self.head_dense(hidden)))
        scale = self.config.logit_scale / self.config.width_ratio
        return hidden if scale == 1.0 else hidden * scale

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V]. It is for decoding and small tests; losses use :meth:`head` instead."""
        states, head = self.head_states(hidden), self.head()
        if not self.turned:
            return head.logits(states)
        weight_VD = head.weight_DV.T.astype(self.config.dtype).astype(jnp.float32)
        rows = states.reshape(-1, states.shape[-1])
        return head.finished(turned_product(rows, weight_VD).reshape(*states.shape[:-1], -1))

    def turn(self) -> None:
        """Stores the matrices as a CPU reads them fastest in products with few rows, see :meth:`Projection.turn`.

        The layers have to be unstacked. The encoder, which reads many tokens at once, stays as it is.
        """
        turn_matrices(self, but="encoder")
        if self.head_weight_DV is not None:
            self.head_weight_DV = parameter(self.head_weight_DV[...].T, ("vocab", "embed"), "matrix")
        self.turned = True

    def pool(self, first: jax.Array) -> jax.Array:
        """Returns ``tanh(h W + b)``, [..., D], for the states of the first tokens of texts (BERT's pooler)."""
        return jnp.tanh(self.pooler(first))

    def pair_logits(self, first: jax.Array) -> jax.Array:
        """Returns float32 logits [..., 2] of a right (0) and a wrong (1) text pair, from its first token's state."""
        return self.pair_classifier(self.pool(first)).astype(jnp.float32)
