"""The three rules every loss keeps: what is not scored has no gradient, wrong ids are NaN, ids are of any type."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import losses
from lmjax.integers import TOO_LARGE, as_int32
from lmjax.parallel.mesh import MeshConfig, make_mesh

V, D = 6, 4
TARGETS = np.array([[1, 5, -100, 0], [-100, -100, 3, 2]])
SCORED = TARGETS >= 0
TIMES = np.array([[0.3, 0.6, 0.0, 1.0], [0.0, 1.0, 0.5, 0.9]])
HEAD = np.sin(np.arange(D * V)).reshape(D, V).astype(np.float32)
SEGMENTS = np.array([[1, 1, 1, 0, 0], [1, 2, 2, 2, 0]])
"""Document 0 is padding; the first three positions of the first row are scored, and less by heads further ahead."""
TOKENS = np.array([[1, 5, 2, 0, 0], [4, 3, 3, 2, 0]])
CANDIDATES = np.where(SCORED[..., None], [[[1, 3]]], -1)


def values(*shape):
    return np.sin(3 * np.arange(np.prod(shape)) + 1).reshape(shape).astype(np.float32)


def linear_sum(hidden, head):
    return losses.linear_cross_entropy(hidden, head, TARGETS, 0.5 * SCORED, chunk_size=3, z_loss=0.1)


def multi_token_scored(num_heads):
    return np.asarray(losses.multi_token_labels(TOKENS, num_heads, segments=SEGMENTS)) != -100


# Of each loss: the function to differentiate, its arguments, and which entries of the leading axes of each are scored.
SHAPE = TARGETS.shape
RULES = {
    "cross_entropy": (
        lambda x: losses.cross_entropy(x, TARGETS, label_smoothing=0.1, z_loss=0.1),
        [values(*SHAPE, V)],
        [SCORED],
    ),
    "masked_lm_loss": (lambda x: losses.masked_lm_loss(x, TARGETS), [values(*SHAPE, V)], [SCORED]),
    "causal_lm_loss": (
        lambda x: losses.causal_lm_loss(x, TARGETS),
        [values(*SHAPE, V)],
        [np.pad(SCORED[:, 1:], ((0, 0), (0, 1)))],
    ),
    "linear_cross_entropy": (linear_sum, [values(*SHAPE, D), HEAD], [SCORED, None]),
    "linear_token_losses": (
        lambda x, w: losses.linear_token_losses(x, w, TARGETS, chunk_size=3),
        [values(*SHAPE, D), HEAD],
        [SCORED, None],
    ),
    "multi_token_loss": (
        lambda x: losses.multi_token_loss(x, TOKENS, segments=SEGMENTS),
        [values(3, 2, 5, V)],
        [multi_token_scored(3)],
    ),
    "linear_multi_token_loss": (
        lambda x, w: losses.linear_multi_token_loss(x, w, TOKENS, segments=SEGMENTS),
        [values(3, 2, 5, D), HEAD],
        [multi_token_scored(3), None],
    ),
    "replaced_token_loss": (
        lambda x: losses.replaced_token_loss(x, np.where(SCORED, TARGETS > 2, -100)),
        [values(*SHAPE)],
        [SCORED],
    ),
    "pair_loss": (lambda x: losses.pair_loss(x, np.where(SCORED, TARGETS > 2, -100)), [values(*SHAPE, 2)], [SCORED]),
    "masked_reconstruction_loss": (
        lambda x, y: losses.masked_reconstruction_loss(x, y, SCORED, normalize_patches=True),
        [values(*SHAPE, D), 2 * values(*SHAPE, D)[:, ::-1]],
        [SCORED, SCORED],
    ),
    "masked_cluster_loss": (
        lambda x: losses.masked_cluster_loss(x, np.maximum(TARGETS, 0), SCORED),
        [values(*SHAPE, V)],
        [SCORED],
    ),
    "masked_diffusion_loss": (lambda x: losses.masked_diffusion_loss(x, SCORED, TIMES), [values(*SHAPE)], [SCORED]),
    "score_entropy_loss": (
        lambda x: losses.score_entropy_loss(x, TARGETS, SCORED, np.where(SCORED, 0.5, TIMES), mask_id=4),
        [values(*SHAPE, V)],
        [SCORED],
    ),
    "unlikelihood": (lambda x: losses.unlikelihood(x, CANDIDATES), [values(*SHAPE, V)], [SCORED]),
    "info_nce": (
        lambda q, k, n: losses.info_nce(
            q,
            k,
            temperature=0.5,
            symmetric=True,
            hard_negatives=n,
            valid=jnp.array([True, False, True]),
            valid_negatives=jnp.array([False, True]),
        ),
        [values(3, D), values(3, D) + 1, values(2, D)],
        [np.array([True, False, True])] * 2 + [np.array([False, True])],
    ),
}
"""Losses that leave something out."""

NOTHING_LEFT_OUT = {
    "bits_per_byte", "bits_per_character", "bradley_terry_loss", "context_candidates", "corrupted_margin",
    "cosine_schedule", "diffusion_weights", "dpo_loss", "linear_schedule", "multi_token_labels", "perplexity",
    "retrieval_accuracy", "reward_margins",
}  # fmt: skip
"""What scores all it is given, or makes labels and numbers of them."""


def test_no_public_loss_is_missing_here():
    functions = {name for name in losses.__all__ if name[0].islower()}
    assert functions == RULES.keys() | NOTHING_LEFT_OUT and not RULES.keys() & NOTHING_LEFT_OUT


@functools.cache
def total_and_gradients(name):
    function, arguments, _ = RULES[name]
    by_all = tuple(range(len(arguments)))
    return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(function(*a)), by_all))


def spoiled(name, bad):
    _, arguments, scored = RULES[name]
    return [
        x if keep is None else np.where(keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim)), x, bad).astype(x.dtype)
        for x, keep in zip(arguments, scored, strict=True)
    ]


@pytest.mark.parametrize("name", RULES)
def test_what_is_not_scored_may_be_anything(name):
    expected = total_and_gradients(name)(*spoiled(name, 0.0))
    assert np.isfinite(expected[0]) and all(np.any(gradient) for gradient in expected[1][:1])
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        total, gradients = total_and_gradients(name)(*spoiled(name, bad))
        np.testing.assert_allclose(total, expected[0], rtol=1e-6, err_msg=f"{bad}")
        for gradient, as_before, keep in zip(gradients, expected[1], RULES[name][2], strict=True):
            np.testing.assert_allclose(gradient, as_before, rtol=1e-5, atol=1e-7, err_msg=f"{bad}")
            assert keep is None or not np.any(np.asarray(gradient)[~keep])


def test_what_is_not_scored_may_be_anything_on_a_mesh():
    hidden, head = np.tile(values(*SHAPE, D), (4, 1, 1)), np.tile(HEAD, (1, 2))
    targets = np.tile(TARGETS, (4, 1))

    def total(hidden, head):
        return losses.linear_cross_entropy(hidden, head, targets, 1.0 * (targets >= 0))

    results = []
    for bad in (0.0, np.nan):
        x = np.where((targets >= 0)[..., None], hidden, bad).astype(np.float32)
        with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
            results.append(jax.device_get(jax.jit(jax.value_and_grad(total, (0, 1)))(x, head)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)


def test_a_weight_of_nothing_scored_has_a_gradient_where_its_loss_is_a_number():
    def total(weights, hidden):
        return losses.linear_cross_entropy(hidden, HEAD, np.array([1, 2]), weights)

    hidden = np.array([[1, 2, 3, 4], [np.nan] * 4], np.float32)
    gradient = jax.grad(total)(jnp.array([0.0, 0.0]), hidden)
    np.testing.assert_allclose(gradient, [losses.cross_entropy(hidden[:1] @ HEAD, [1])[0], 0.0], rtol=1e-5)
    assert np.isnan(total(jnp.array([1.0, 1.0]), hidden))


BY_IDS = {
    "cross_entropy": lambda ids, size: losses.cross_entropy(values(len(ids), size), ids),
    "linear_token_losses": lambda ids, size: losses.linear_token_losses(values(len(ids), D), values(D, size), ids),
    "linear_cross_entropy": lambda ids, size: losses.linear_cross_entropy(
        values(len(ids), D), values(D, size), ids, jnp.ones(len(ids))
    ),
    "masked_cluster_loss": lambda ids, size: losses.masked_cluster_loss(
        values(len(ids), size), ids, np.ones(len(ids), bool)
    ),
    "unlikelihood": lambda ids, size: losses.unlikelihood(
        values(len(ids), size), jnp.asarray(ids)[:, None] if isinstance(ids, jax.Array) else ids[:, None]
    ),
    "score_entropy_loss": lambda ids, size: losses.score_entropy_loss(
        values(len(ids), size), ids, np.ones(len(ids), bool), np.full(len(ids), 0.5), mask_id=0
    ),
    "multi_token_loss": lambda ids, size: losses.multi_token_loss(values(2, len(ids), size), ids),
}


@pytest.mark.parametrize("name", BY_IDS)
def test_ids_of_any_integer_type_and_beyond_their_type(name):
    for dtype, size, ids in (
        ("int8", 300, [1, 126, 5]), ("uint8", 300, [1, 200, 255]), ("int16", 40_000, [1, 32_767, 9]),
        ("uint16", 40_000, [1, 39_999, 9]), ("int64", 300, [1, 299, 7]), ("uint32", 300, [1, 299, 7]),
    ):  # fmt: skip
        expected = BY_IDS[name](np.array(ids, np.int32), size)
        assert np.all(np.isfinite(expected))
        for array in (np.array(ids, dtype), jnp.array(ids, "int32" if dtype == "int64" else dtype)):
            np.testing.assert_array_equal(BY_IDS[name](array, size), expected)


@pytest.mark.parametrize("name", BY_IDS)
@pytest.mark.parametrize(
    "wrong",
    [np.int32(300), np.int64(2**32 + 3), np.int64(-(2**32) + 3), np.uint32(2**32 - 100), np.uint16(2**16 - 100)],
    ids=["V", "wraps", "wraps below", "-100 as uint32", "-100 as uint16"],
)
def test_an_id_outside_of_the_vocabulary_is_never_another(name, wrong):
    found = BY_IDS[name](np.array([1, wrong, 2], wrong.dtype), 300)
    assert np.any(np.isnan(found))


def test_as_int32():
    assert as_int32(np.array([2**32 - 100, 5], np.uint32)).tolist() == [TOO_LARGE, 5]
    assert as_int32(jnp.array([2**32 - 100, 5], jnp.uint32)).tolist() == [TOO_LARGE, 5]
    assert as_int32(np.array([-(2**40), 2**63 - 1, -100])).tolist() == [TOO_LARGE, TOO_LARGE, -100]
    assert as_int32([]).dtype == as_int32([True]).dtype == as_int32(np.int8(-100)).dtype == jnp.int32
    with pytest.raises(ValueError, match="labels are float32: must be integers"):
        as_int32(np.float32([1.5]), "labels")


@pytest.mark.long
@pytest.mark.parametrize("rows", [0, 1])
def test_empty_batches_and_single_tokens(rows):
    ids, logits, hidden = np.full((rows, 1), 2), values(rows, 1, V), values(rows, 1, D)
    ones = np.ones((rows, 1), bool)
    each = (
        losses.cross_entropy(logits, ids),
        losses.linear_token_losses(hidden, HEAD, ids),
        losses.replaced_token_loss(values(rows, 1), ones),
        losses.masked_cluster_loss(logits, ids, ones),
        losses.masked_reconstruction_loss(hidden, hidden, ones),
        losses.masked_diffusion_loss(values(rows, 1), ones, np.full((rows,), 0.5)),
        losses.score_entropy_loss(logits, ids, ones, np.full((rows,), 0.5), mask_id=0),
        losses.unlikelihood(logits, losses.context_candidates(ids)),
    )
    assert all(loss.shape == (rows, 1) and np.all(np.isfinite(loss)) for loss in each)
    queries = values(rows, D)
    assert losses.info_nce(queries, queries, temperature=1.0).tolist() == [0.0] * rows
    assert losses.retrieval_accuracy(queries, queries).shape == (rows,)
    assert losses.linear_cross_entropy(hidden, HEAD, ids, 0.0 * ids) == 0
    for mean in (
        losses.causal_lm_loss(logits, ids),
        losses.multi_token_loss(values(2, rows, 1, V), ids),
        losses.linear_multi_token_loss(values(2, rows, 1, D), HEAD, ids),
        losses.masked_lm_loss(logits, np.full_like(ids, -100)),
    ):
        assert mean == 0


def test_one_class():
    one = values(3, 1)
    for smoothing in ("uniform", "others"):
        loss = losses.cross_entropy(one, [0, 0, -100], label_smoothing=0.3, smoothing=smoothing)
        np.testing.assert_allclose(loss, 0.0, atol=1e-7)
    gradient = jax.grad(lambda x: losses.unlikelihood(x, np.full((3, 1), -1)).sum())(one)
    assert not np.any(gradient)


def test_padding_is_nobodys_label_and_has_no_candidates():
    tokens, segments = np.array([[5, 6, 7, 0, 0, 0]]), np.array([[1, 1, 1, 0, 0, 0]], np.uint8)
    no = -100
    labels = losses.multi_token_labels(tokens, 2, segments=segments)
    assert labels.tolist() == [[[6, 7, no, no, no, no]], [[7, no, no, no, no, no]]]
    candidates = losses.context_candidates(np.array([[5, 6, 0, 1]]), np.array([[1, 1, 0, 0]]))
    assert candidates[0, 2:].tolist() == [[-1] * 4] * 2 and candidates[0, 1].tolist() == [5, -1, -1, -1]


@pytest.mark.parametrize("schedule", [losses.linear_schedule, losses.cosine_schedule])
def test_diffusion_at_the_ends_of_time(schedule):
    logits, masked = jnp.asarray(values(1, 2, V)), np.array([[True, False]])

    def entropy(time, masked=masked):
        times = np.array([[time, time]], np.float32)
        return losses.score_entropy_loss(logits, [[1, 2]], masked, times, mask_id=0, schedule=schedule)[0]

    def elbo(time, masked=masked):
        nats = np.ones((1, 2), np.float32)
        return losses.masked_diffusion_loss(nats, masked, np.array([time], np.float32), schedule=schedule)[0]

    for time in (0.0, 1.0):
        # Rounding leaves the cosine a little short of its end.
        assert entropy(time)[0] > 1e6 and entropy(time)[1] == 0
    assert elbo(0.0)[0] == np.inf and 0 <= elbo(1.0)[0] < 2 and elbo(0.0)[1] == 0
    for time in (-0.1, 1.1, np.nan):
        assert np.isnan(entropy(time)[0]) and np.isnan(elbo(time)[0])
        assert entropy(time)[1] == elbo(time)[1] == 0
    nothing = np.zeros((1, 2), bool)
    gradient = jax.grad(lambda t: jnp.sum(elbo_of(t, nothing, schedule)))(jnp.zeros((1,)))
    assert not np.any(gradient)
    with pytest.raises(ValueError, match="mask_id=6: ids lie in 0 .. 5"):
        losses.score_entropy_loss(logits, [[1, 2]], masked, np.full((1, 2), 0.5), mask_id=V)


def elbo_of(times, masked, schedule):
    return losses.masked_diffusion_loss(jnp.ones((1, 2)), masked, times, schedule=schedule)


def test_numbers_that_are_none_are_refused():
    nan, one = float("nan"), jnp.ones((2, 2))
    for refused in (
        lambda: losses.info_nce(one, one, temperature=nan),
        lambda: losses.dpo_loss(one, one, one, one, beta=nan),
        lambda: losses.dpo_loss(one, one, one, one, beta=1.0, label_smoothing=nan),
        lambda: losses.bradley_terry_loss(one, one, margin=nan),
        lambda: losses.corrupted_margin(one, one, margin=nan),
        lambda: losses.linear_token_losses(one, one, [1, 1], softcap=nan),
        lambda: losses.cross_entropy(one, [1, 1], label_smoothing=nan),
        lambda: losses.masked_reconstruction_loss(one[..., :1], one[..., :1], [True, True], normalize_patches=True),
    ):
        with pytest.raises(ValueError):
            refused()
