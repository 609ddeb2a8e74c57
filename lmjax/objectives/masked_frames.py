"""Masked prediction of clusters: name the sound of frames that were not heard (HuBERT: Hsu et al. 2021).

Spans of frames are replaced with one learned vector. The model tells the cluster each hidden frame belongs to
from the frames around it,

    p(c | o_t) = softmax over c of  cos(A o_t, e_c) / temperature
    loss       = alpha  mean over masked t of - log p(z_t | o_t)  +  (1 - alpha)  mean over the others of the same

with the model's output o_t (section II). Clusters z come from k-means, as in HuBERT's first iteration, or from
a frozen random projection (BEST-RQ: Chiu et al. 2022), which needs nothing to be fitted first.
"""

import dataclasses
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmjax.corruption import mask_frames
from lmjax.features.clusters import nearest_centroids, projected_clusters
from lmjax.losses import linear_cross_entropy
from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import Projection, parameter
from lmjax.models.with_extras import WithExtras, extra_of, with_extras
from lmjax.objectives.parts.feature_objective import FeatureObjective, FeatureStack, mask_vector
from lmjax.objectives.parts.objective import Terms
from lmjax.objectives.parts.token_objective import token_weights
from lmjax.schedules.ramp import Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream


def run_on_frames(
    model: WithExtras,
    features_BTD: jax.Array,
    is_hidden_BT: jax.Array,
    stream: Stream,
    *,
    key: jax.Array | None = None,
) -> Hidden:
    """Runs the encoder on frames [B, T, D], of which it sees those that are not hidden."""
    encoder, mask_D = model.model, model.extras["mask_D"][...]
    x_BTD = encoder.projection(features_BTD)
    x_BTD = jnp.where(is_hidden_BT[:, :, None], mask_D.astype(x_BTD.dtype)[None, None, :], x_BTD)
    return encoder.read(x_BTD, stream, key=key)


def cluster_head(
    model: WithExtras, hidden_BTD: jax.Array, temperature: float | jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns states, matrix and bias. The logits of the clusters are the product of the first two, plus the bias."""
    output, clusters_VE = model.extras["output"], extra_of(model, "clusters_VE")
    if clusters_VE is None:
        return hidden_BTD, output.weight[...], output.bias[...]
    states_BTE = _unit(output(hidden_BTD)) / temperature
    return states_BTE.astype(model.config.dtype), _unit(clusters_VE[...]).T, None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedFrames(FeatureObjective):
    """HuBERT on frames of features."""

    start_rate: float = 0.08
    """Share of the frames at which a masked span begins; spans may overlap."""
    span: int = 10
    """Frames of a span."""
    alpha: float = 1.0
    """Weight of the masked frames' loss; the loss of the others has the weight 1 - alpha."""
    num_clusters: int = 512
    """V, the number of clusters."""
    centroids: str | None = None
    """A .npy file of k-means centroids, [num_clusters, source.width]; the clusters are then the nearest of them, and
    else those of a random projection."""
    projection_width: int = 16
    """Width of the random projection and its code vectors."""
    projection_seed: int = 0
    """Seed of the random projection and its code vectors."""
    head: Literal["cosine", "linear"] = "cosine"
    """Logits are cosines with learned embeddings of the clusters, over the temperature, or a linear map."""
    temperature: Scalar = 0.1
    """What the cosines are divided by."""
    cluster_width: int = 256
    """Width of the clusters' embeddings."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("start_rate", "alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must lie between 0 and 1")
        for name in ("span", "projection_width", "cluster_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must be at least 1")
        if self.num_clusters < 2:
            raise ValueError(f"objective.num_clusters={self.num_clusters}: must be at least 2")
        if min(extremes(self.temperature)) <= 0:
            raise ValueError(f"objective.temperature={self.temperature}: must be above 0")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses sequences in which no span is masked, and centroids that are not there or not for these frames."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if sequence_length < self.span or round(np.float32(sequence_length * self.start_rate)) < 1:
            raise ValueError(
                f"train.sequence_length={sequence_length}: at objective.start_rate={self.start_rate} and "
                f"objective.span={self.span} nothing of a row is masked: raise it"
            )
        if self.centroids is not None:
            _load_centroids(self.centroids, (self.num_clusters, self.feature_width))

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the encoder, with the vector ``mask_D`` of hidden frames and a head that names clusters as extras.

        The head is a map ``output``; with cosines, of the states to the width of the embeddings ``clusters_VE``.
        """
        encoder = FeatureStack(model, features=self.feature_width, rngs=rngs)
        mask_D = mask_vector(model, rngs=rngs)
        is_cosine = self.head == "cosine"
        answers = {"cluster": self.cluster_width} if is_cosine else {"vocab": self.num_clusters}
        output = Projection({"embed": model.width}, answers, std=None, bias=True, dtype=model.dtype, rngs=rngs)
        clusters_VE = None
        if is_cosine:
            table_VE = jax.random.normal(rngs.params(), (self.num_clusters, self.cluster_width))
            clusters_VE = parameter(table_VE, ("vocab", "cluster"), "embedding")
        return with_extras(encoder, mask_D=mask_D, output=output, clusters_VE=clusters_VE)

    def clusters(self, features: jax.Array) -> jax.Array:
        """Returns the cluster of each frame, int32 [...]."""
        if self.centroids is not None:
            shape = self.num_clusters, self.feature_width
            return nearest_centroids(features, jnp.asarray(_load_centroids(self.centroids, shape)))
        return projected_clusters(
            features, num_clusters=self.num_clusters, width=self.projection_width, seed=self.projection_seed
        )

    def corrupt_features(self, key: jax.Array, features_BTD: jax.Array, rows: Rows) -> Batch:
        """Chooses the masked spans and finds the clusters of all frames."""
        num_rows, length, _ = features_BTD.shape
        is_hidden_BT = mask_frames(
            key, (num_rows, length), start_rate=self.start_rate, span=self.span, segments_BT=rows.segments_BT
        )
        weights_BT = token_weights(rows)
        weights = {"masked": weights_BT * is_hidden_BT, "unmasked": weights_BT * ~is_hidden_BT}
        return Batch(
            inputs=make_stream(rows.tokens_BT, rows.segments_BT, "bidirectional"),
            # The answers are no tokens.
            targets_BP=jnp.zeros((num_rows, 0), jnp.int32),
            weights={name: weights[name] for name in self.coefficients()},
            extras={"features": features_BTD, "is_hidden": is_hidden_BT, "cluster": self.clusters(features_BTD)},
        )

    def terms(self, model: WithExtras, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the cross entropy of masked frames, and that of the others unless alpha is 1."""
        hidden = run_on_frames(model, batch.extras["features"], batch.extras["is_hidden"], batch.inputs, key=key)
        states_BTE, matrix_EV, bias_V = cluster_head(model, hidden.states_BTD, current(self.temperature))
        losses = {
            name: linear_cross_entropy(states_BTE, matrix_EV, batch.extras["cluster"], weights_BT, bias=bias_V)
            for name, weights_BT in batch.weights.items()
        }
        return Terms(losses, hidden.routing)

    def coefficients(self) -> dict[str, float]:
        """Returns alpha for the masked frames and 1 - alpha for the others."""
        shares = {"masked": self.alpha, "unmasked": 1 - self.alpha}
        return {name: share for name, share in shares.items() if share > 0}


def _unit(vectors: jax.Array) -> jax.Array:
    """Returns the vectors scaled to length 1, in float32."""
    wide = vectors.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True) + 1e-12)


def _load_centroids(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Returns the centroids in a file.

    Raises:
      ValueError: there is no such file, or it holds something else.
    """
    try:
        centroids_VD = np.load(pathlib.Path(path), allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(
            f"objective.centroids={path!r}: no file there: make it with lmjax.corruption.fit_centroids and numpy.save"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"objective.centroids={path!r} is not a .npy file of numbers: {error}") from None
    if centroids_VD.shape != shape or not np.issubdtype(centroids_VD.dtype, np.floating):
        raise ValueError(
            f"objective.centroids={path!r} holds {centroids_VD.dtype} {list(centroids_VD.shape)}: must be floats "
            f"{list(shape)}, objective.num_clusters rows of objective.source.width numbers"
        )
    return centroids_VD.astype(np.float32)
