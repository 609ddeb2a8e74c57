"""Cluster numbers of feature vectors, the targets of models that predict the clusters of hidden vectors.

The cluster is that of the nearest centroid found by k-means (HuBERT's first iteration: Hsu et al. 2021, section
II-A), or that of the nearest random code vector after a random projection, which needs no training (BEST-RQ: Chiu et
al. 2022, section 3.1).

Axes: V clusters, N vectors, D width of a vector, H width of a code vector.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def nearest_centroids(features: jax.Array, centroids_VD: jax.Array) -> jax.Array:
    """Returns the index of the centroid nearest to each vector.

    ``argmin over v of | features - centroids[v] |²`` (Hsu et al. 2021, section II-A).

    Args:
      features: [..., D]; no gradient flows to them.
      centroids_VD: [V, D].

    Returns:
      int32 [...].

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> features, centroids_VD = jnp.array([[1.0, 1.0], [8.0, 9.0]]), jnp.array([[0.0, 0.0], [9.0, 9.0]])
      >>> print(corruption.nearest_centroids(features, centroids_VD))
      [0 1]
    """
    centroids_VD = jnp.asarray(centroids_VD, jnp.float32)
    # |x - c|^2 without |x|^2, which is the same for all centroids.
    scores = jax.lax.stop_gradient(features.astype(jnp.float32)) @ centroids_VD.T
    half_squares_V = jnp.sum(jnp.square(centroids_VD), axis=1) / 2
    return jnp.argmax(scores - half_squares_V.reshape((1,) * (scores.ndim - 1) + (-1,)), axis=-1).astype(jnp.int32)


def fit_centroids(key: jax.Array, features_ND: jax.Array, *, num_clusters: int, num_steps: int = 50) -> jax.Array:
    """Finds centroids by k-means: each is the mean of the vectors nearest to it (Lloyd 1982).

    A round sets ``c_v = mean of x_n with nearest(x_n) = v``.

    The first centroids are chosen by k-means++ (Arthur & Vassilvitskii 2007): each is a vector drawn with a
    probability proportional to its squared distance from the centroids before. A centroid without vectors does not
    move.

    Args:
      key: PRNG key of the first centroids.
      features_ND: the vectors.
      num_clusters: V.
      num_steps: rounds of assigning and averaging.

    Returns:
      float32 [V, D].

    Raises:
      ValueError: there are fewer vectors than clusters.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> features_ND = jnp.array([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
      >>> centroids_VD = corruption.fit_centroids(jax.random.key(0), features_ND, num_clusters=2)
      >>> print(jnp.sort(centroids_VD, axis=0))
      [[0. 1.]
       [9. 9.]]
    """
    if not 1 <= num_clusters <= features_ND.shape[0]:
        raise ValueError(f"fit_centroids: num_clusters={num_clusters} of {features_ND.shape[0]} vectors: give more")
    features_ND = features_ND.astype(jnp.float32)

    def distances(centroid_D: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(features_ND - centroid_D[None, :]), axis=1)

    def pick(nearest_N: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        centroid_D = features_ND[jax.random.categorical(key, jnp.log(nearest_N))]
        return jnp.minimum(nearest_N, distances(centroid_D)), centroid_D

    def improve(centroids_VD: jax.Array, _) -> tuple[jax.Array, None]:
        cluster_N = nearest_centroids(features_ND, centroids_VD)
        sums_VD = jnp.zeros_like(centroids_VD).at[cluster_N].add(features_ND)
        counts_V1 = jnp.zeros((num_clusters, 1)).at[cluster_N].add(1.0)
        return jnp.where(counts_V1 > 0, sums_VD / jnp.maximum(counts_V1, 1.0), centroids_VD), None

    _, first_VD = jax.lax.scan(pick, jnp.ones(features_ND.shape[0]), jax.random.split(key, num_clusters))
    return jax.lax.scan(improve, first_VD, length=num_steps)[0]


def projected_clusters(features: jax.Array, *, num_clusters: int, width: int = 16, seed: int = 0) -> jax.Array:
    """Returns the index of the random code vector whose direction is nearest to that of the projected vector.

    ``argmin over i of | c_i / |c_i| - A x / |A x| |`` with A drawn by Xavier's rule and c from a normal distribution;
    both are fixed by the seed. The features should have mean 0 and variance 1; with a mean far from 0 most of them
    fall into a few clusters.

    Chiu et al. 2022 (BEST-RQ), section 3.1.

    Args:
      features: [..., D]; no gradient flows to them.
      num_clusters: V; the paper takes 8,192.
      width: width of the code vectors.
      seed: the projection and the code vectors are drawn from it.

    Returns:
      int32 [...].

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> features = jnp.array([[1.0, -1.0], [10.0, -10.0], [-1.0, 1.0]])
      >>> print(corruption.projected_clusters(features, num_clusters=8))  # the direction decides, not the length
      [3 3 5]
    """
    projection_DH, codes_VH = _random_codes(features.shape[-1], num_clusters, width, seed)
    projected = jax.lax.stop_gradient(features.astype(jnp.float32)) @ jnp.asarray(projection_DH)
    # The argmax depends neither on the length of the projected vector nor on Xavier's factor.
    return jnp.argmax(projected @ jnp.asarray(codes_VH).T, axis=-1).astype(jnp.int32)


@functools.cache
def _random_codes(features_width: int, num_clusters: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Projection [D, H] and code vectors of length 1 [V, H], float32."""
    # The numbers of numpy's legacy generator never change between versions, so a run's targets stay the same.
    random = np.random.RandomState(seed)
    bound = np.sqrt(6 / (features_width + width))
    projection_DH = random.uniform(-bound, bound, size=(features_width, width))
    codes_VH = random.normal(size=(num_clusters, width))
    codes_VH /= np.linalg.norm(codes_VH, axis=1, keepdims=True)
    return projection_DH.astype(np.float32), codes_VH.astype(np.float32)
