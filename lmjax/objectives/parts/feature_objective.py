"""What objectives on feature vectors share: the vectors out of rows, and the stack that reads them."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import Embedding, Projection, dropout, make_norm, parameter, split_key
from lmjax.models.positions import sinusoidal
from lmjax.models.stack import Stack
from lmjax.models.token_stack import embedding_std
from lmjax.objectives.parts.feature_source import FeatureSource
from lmjax.objectives.parts.objective import Objective, Traits
from lmjax.parallel.mesh import constrain
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream

TOKEN_FIELDS = (
    "num_types", "pooler", "pair_head", "embedding_width", "scale_embeddings", "head_transform", "head_bias",
    "logit_softcap", "logit_scale",
)  # fmt: skip
"""The fields of a model that concern token embeddings and heads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureObjective(Objective):
    """An objective on vectors [B, T, D]; subclasses define ``corrupt_features`` and ``terms``.

    Features of another kind than :class:`FeatureSource` makes need a subclass that overrides
    :meth:`features` (with :attr:`feature_width` and :meth:`row_length`); a training loop of its own can
    hand its arrays to ``corrupt_features`` and needs no rows.
    """

    source: FeatureSource = FeatureSource()
    """How the vectors are made of tokens."""

    @property
    def feature_width(self) -> int:
        """D, the number of numbers in a vector."""
        return self.source.width

    def row_length(self, sequence_length: int) -> int:
        """Returns how many tokens ``sequence_length`` vectors are made of."""
        return self.source.num_tokens(sequence_length)

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses tokens that are no bytes where bytes are needed, and a model with parts for tokens."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        self.source.check(vocabulary)
        self.row_length(sequence_length)
        for name in TOKEN_FIELDS:
            if getattr(model, name) != ModelConfig.__dataclass_fields__[name].default:
                raise ValueError(
                    f"model.{name}={getattr(model, name)}: {type(self).__name__} reads vectors and names no token: "
                    f"leave it out"
                )

    def features(self, key: jax.Array, rows: Rows) -> jax.Array:
        """Returns the vectors of the rows, float32 [B, T, D].

        Args:
          key: PRNG key.
          rows: [B, row_length(T)] tokens.
        """
        return self.source.features(key, rows.tokens_BT)

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Makes vectors of the rows and hides some of them."""
        feature_key, hide_key = jax.random.split(key)
        features_BTD = self.features(feature_key, rows)
        batch = self.corrupt_features(hide_key, features_BTD, rows_of_vectors(rows, features_BTD.shape[1]))
        if vocabulary.mask_id is None:
            return batch
        # The model reads no tokens; pictures of what it reads show them.
        shown_BT = jnp.where(batch.extras["is_hidden"], vocabulary.mask_id, batch.inputs.tokens_BT)
        return dataclasses.replace(batch, inputs=dataclasses.replace(batch.inputs, tokens_BT=shown_BT))

    @abc.abstractmethod
    def corrupt_features(self, key: jax.Array, features_BTD: jax.Array, rows: Rows) -> Batch:
        """Chooses what to hide, and says it in ``extras["is_hidden"]`` (bool [B, T]).

        Args:
          key: PRNG key.
          features_BTD: the vectors.
          rows: [B, T] for each vector its document (``segments_BT``), its weight, and a token that stands
            for it in pictures; the model does not see that one.
        """

    @property
    def traits(self) -> Traits:
        """An encoder, which sees the whole sequence."""
        return Traits(
            attention="bidirectional",
            instead_of_text="it reads vectors, not tokens: `lmjax evaluate RUN` measures how well it restores them",
        )


def rows_of_vectors(rows: Rows, num_vectors: int) -> Rows:
    """Returns rows [B, num_vectors] with the first token of each vector, its document and its weight."""
    length = rows.tokens_BT.shape[1]
    index_T = jnp.arange(num_vectors) * length // num_vectors
    return jax.tree.map(lambda leaf: leaf[:, index_T], rows)


class FeatureStack(Stack):
    """Blocks over vectors: a projection to the model's width in place of a token table."""

    def __init__(self, config: ModelConfig, *, features: int, rngs: nnx.Rngs):
        """Initialises all parameters, for vectors of ``features`` numbers."""
        self.projection = Projection(
            {"features": features}, {"embed": config.width}, std=None, bias=True, dtype=config.dtype, rngs=rngs
        )
        self.position_embedding = nnx.data(
            Embedding(
                config.max_length, config.width, axes=("positions", "embed"), std=embedding_std(config), rngs=rngs
            )
            if config.positions == "learned"
            else None
        )
        super().__init__(config, rngs=rngs)
        self.embedding_norm = nnx.data(make_norm(config) if config.embedding_norm else None)

    def read(self, x_BTD: jax.Array, stream: Stream, *, key: jax.Array | None = None) -> Hidden:
        """Adds positions to vectors and runs the blocks and the final norm.

        Args:
          x_BTD: ``self.projection`` of the vectors, or what stands in the place of hidden ones.
          stream: their positions and mask.
          key: PRNG key of dropout.
        """
        embed_key, run_key = split_key(key, 2)
        config = self.config
        if self.position_embedding is not None:
            x_BTD = x_BTD + self.position_embedding(stream.positions_BT, config.dtype)
        elif config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoidal(stream.positions_BT, config.width).astype(x_BTD.dtype)
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        x_BTD = constrain(dropout(x_BTD, config.dropout, embed_key), "batch", "length", None)
        return self.run(x_BTD, stream.positions_BT, stream.mask, valid_BT=stream.valid_BT, key=run_key)


def mask_vector(config: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Param:
    """Returns the learned vector that stands in the place of every hidden one, [D]."""
    return parameter(embedding_std(config) * jax.random.normal(rngs.params(), (config.width,)), ("embed",), "embedding")
