"""Masked autoencoding of feature vectors: most are hidden and reconstructed from the rest (He et al. 2022).

An encoder reads the visible patches, and only them, each at its own position. A smaller decoder reads the
encoder's states at their places and a learned vector in every hidden one, and says what was there:

    loss = mean over hidden patches of  |prediction - patch|^2 / D

with each patch, optionally, less its mean and over its standard deviation.

Axes: K patches that are seen, M patches that are hidden.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.corruption import mask_patches
from lmjax.losses import masked_reconstruction_loss
from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import Projection, split_key
from lmjax.models.routing import joined
from lmjax.models.with_extras import WithExtras
from lmjax.objectives.parts.feature_objective import FeatureObjective, FeatureStack, mask_vector
from lmjax.objectives.parts.objective import Terms
from lmjax.objectives.parts.token_objective import gather_scored, token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream


def encode(encoder: FeatureStack, features_BKD: jax.Array, stream: Stream, *, key: jax.Array | None = None) -> Hidden:
    """Runs the encoder on some vectors (or, after training, on all) at the positions of ``stream``."""
    return encoder.read(encoder.projection(features_BKD), stream, key=key)


def reconstruct(
    decoder: FeatureStack,
    mask_D: jax.Array,
    states_BKD: jax.Array,
    kept_BK: jax.Array,
    stream: Stream,
    *,
    key: jax.Array | None = None,
) -> Hidden:
    """Runs the decoder; its states are [B, T, E], one for each place of ``stream``.

    Args:
      decoder: the decoder.
      mask_D: the vector in the hidden places.
      states_BKD: the encoder's states.
      kept_BK: their places.
      stream: positions and mask of the whole sequence.
      key: PRNG key of dropout.
    """
    visible_BKE = decoder.projection(states_BKD)
    hidden_TE = jnp.broadcast_to(
        mask_D.astype(visible_BKE.dtype)[None, :], (stream.tokens_BT.shape[1], visible_BKE.shape[2])
    )
    # Mapped over rows: a batch that is split over devices scatters without talking.
    x_BTE = jax.vmap(lambda kept_K, visible_KE: hidden_TE.at[kept_K].set(visible_KE))(kept_BK, visible_BKE)
    return decoder.read(x_BTE, stream, key=key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedReconstruction(FeatureObjective):
    """MAE; `model` describes the encoder."""

    rate: float = 0.75
    """Share of the patches to hide."""
    normalize_patches: bool = True
    """Whether the targets are patches less their mean, divided by their standard deviation."""
    decoder_width: int = 512
    """Width of the decoder."""
    decoder_layers: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Heads of the decoder."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.rate < 1:
            raise ValueError(f"objective.rate={self.rate}: must lie between 0 and 1")
        for name in ("decoder_width", "decoder_layers", "decoder_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must be at least 1")
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"objective.decoder_width={self.decoder_width} is not divisible by objective.decoder_heads="
                f"{self.decoder_heads}: change one of them"
            )

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses sequences too short to hide and show some, and positions that count what the encoder sees."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if not 0 < int(sequence_length * (1 - self.rate)) < sequence_length:
            raise ValueError(
                f"train.sequence_length={sequence_length}: at objective.rate={self.rate} not one patch is hidden and "
                f"one visible: raise it, or change the rate"
            )
        if self.feature_width < 2 and self.normalize_patches:
            raise ValueError(
                "objective.normalize_patches=True: patches of one number have no deviation of their own: set it to "
                "False"
            )
        # These count places among the encoder's inputs, which are not neighbours.
        if model.positions in ("alibi", "relative") or any(model.windows):
            raise ValueError(
                f"model.positions={model.positions!r} with model.windows={model.windows}: the encoder of "
                f"MaskedReconstruction sees patches from all over the row: use 'sinusoidal', 'learned' or 'rope', "
                f"without windows"
            )
        self.decoder_config(model)

    def decoder_config(self, model: ModelConfig) -> ModelConfig:
        """Returns the encoder's configuration with the decoder's sizes.

        Raises:
          ValueError: they do not suit the blocks.
        """
        try:
            return dataclasses.replace(
                model,
                width=self.decoder_width,
                num_layers=self.decoder_layers,
                num_heads=self.decoder_heads,
                num_kv_heads=None,
                head_width=None,
                feedforward_width=None,
            )
        except ValueError as error:
            raise ValueError(
                f"objective.decoder_width={self.decoder_width} and objective.decoder_heads={self.decoder_heads} do not "
                f"suit the model: {error}"
            ) from None

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the encoder, with ``decoder``, ``mask_D`` and the map ``output`` to patches as extras."""
        config, features = self.decoder_config(model), self.feature_width
        encoder = FeatureStack(model, features=features, rngs=rngs)
        decoder = FeatureStack(config, features=model.width, rngs=rngs)
        mask_D = mask_vector(config, rngs=rngs)
        output = Projection(
            {"embed": config.width}, {"features": features}, std=None, bias=True, dtype=config.dtype, rngs=rngs
        )
        return WithExtras(encoder, decoder=decoder, mask_D=mask_D, output=output)

    def corrupt_features(self, key: jax.Array, features_BTD: jax.Array, rows: Rows) -> Batch:
        """Chooses the hidden patches of each row, the same number in every row."""
        num_rows, length, _ = features_BTD.shape
        patches = mask_patches(key, (num_rows, length), rate=self.rate)
        whole = make_stream(rows.tokens_BT, rows.segments_BT, "bidirectional")

        def at(values_BT: jax.Array, index_BP: jax.Array) -> jax.Array:
            return jnp.take_along_axis(values_BT, index_BP, axis=1)

        segments_BK = None if rows.segments_BT is None else at(rows.segments_BT, patches.kept_BK)
        visible = make_stream(at(rows.tokens_BT, patches.kept_BK), segments_BK, "bidirectional")
        return Batch(
            inputs=whole,
            encoder=dataclasses.replace(visible, positions_BT=at(whole.positions_BT, patches.kept_BK)),
            scored_BP=patches.hidden_BM,
            targets_BP=at(rows.tokens_BT, patches.hidden_BM),
            weights={"reconstruction": at(token_weights(rows), patches.hidden_BM)},
            extras={"features": features_BTD, "kept": patches.kept_BK, "is_hidden": patches.is_hidden_BT},
        )

    def terms(self, model: WithExtras, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the squared error at the hidden patches, a mean over the numbers of each patch."""
        encoder_key, decoder_key = split_key(key, 2)
        features_BTD, kept_BK = batch.extras["features"], batch.extras["kept"]
        assert batch.encoder is not None
        extras = model.extras
        encoded = encode(model.model, gather_scored(features_BTD, kept_BK), batch.encoder, key=encoder_key)
        decoded = reconstruct(
            extras["decoder"], extras["mask_D"][...], encoded.states_BTD, kept_BK, batch.inputs, key=decoder_key
        )
        weights_BM = batch.weights["reconstruction"]
        errors_BM = masked_reconstruction_loss(
            extras["output"](gather_scored(decoded.states_BTD, batch.scored_BP)),
            gather_scored(features_BTD, batch.scored_BP),
            jnp.ones(weights_BM.shape, bool),
            normalize_patches=self.normalize_patches,
        )
        return Terms({"reconstruction": jnp.sum(weights_BM * errors_BM)}, joined([encoded.routing, decoded.routing]))
