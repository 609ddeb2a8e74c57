"""Attention by ring on four devices: values, all gradients, no leakage, and nothing gathered."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from lmjax import masks
from lmjax.kernels import AlibiBias, attend
from lmjax.kernels.attention.partial import NO_KEY, Part, merge, partial_chunked, partial_tpu
from lmjax.kernels.attention.ring import num_visits, ring_attention
from lmjax.kernels.attention.row_parts import RowParts
from lmjax.kernels.attention.xla import xla_attention
from lmjax.parallel.mesh import MeshConfig, make_mesh

B, T, N, K, H, V = 3, 88, 6, 3, 6, 10
"""Sizes of which no product on a device is T: an array with an axis of 88 is then one of a whole row."""
MESH = make_mesh(MeshConfig(data=1, context=4), jax.devices()[:4])
SEGMENTS = jnp.asarray(tiny.segments([[30, 41, 9], [1, 50, 37], [88]], T))
OTHERS = jnp.asarray(tiny.segments([[70, 10], [20, 30], [60, 5]], T))
SPLIT = PartitionSpec(None, "context")
MASKS = {
    "causal": masks.causal(T),
    "packed": masks.packed(SEGMENTS),
    "bidirectional": masks.bidirectional(T),
    "prefix": masks.prefix(T, jnp.array([5, 60, 0])),
    "local": masks.windowed(masks.packed(SEGMENTS, "bidirectional"), 9),
    "cross": masks.cross(SEGMENTS, OTHERS),  # with queries that see no key
}
FORMS = {
    "zigzag": ({"kind": "interval", "window": None}, {"softcap": 2.0}, jnp.float32, 2e-5),
    # Neighbouring positions, 22 on a device: the window of 26 reaches the keys of two devices before, not of a third.
    "window": ({"kind": "packed_causal", "window": 26}, {"softcap": None}, jnp.bfloat16, 4e-2),
}
"""Mask's kind, which decides where positions are and how often keys pass; options; dtype; tolerance."""


def operands(dtype=jnp.float32):
    random = np.random.default_rng(0)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, V), (B, T, N, V))
    query, key, value, grad = (jnp.asarray(random.normal(size=shape), dtype) for shape in shapes)
    return query, key, value, jnp.linspace(-1.0, 1.0, N), grad


def with_gradients(attention, query, key, value, sinks, grad, mask):
    """The output, and the gradients of all floats."""
    output, pull_back = jax.vjp(
        lambda *arrays: attention(*arrays[:3], mask, sinks_N=arrays[3]), query, key, value, sinks
    )
    return output, pull_back(grad)


@functools.cache
def ring(form: str):
    """The compiled ring of a form, with gradients, on arrays that are split as on a mesh."""
    of_mask, options, dtype, _ = FORMS[form]
    partial = functools.partial(partial_chunked, scale=0.4, block=8, **options)
    layouts = [NamedSharding(MESH, spec) for spec in (SPLIT, SPLIT, SPLIT, PartitionSpec(), SPLIT)]

    def run(*arrays):
        mask = masks.IntervalMask(start_BT=arrays[5], end_BT=arrays[6], **of_mask)
        return with_gradients(functools.partial(ring_attention, partial=partial), *arrays[:5], mask)

    shapes = [*operands(dtype), jnp.zeros((B, T), jnp.int32), jnp.zeros((B, T), jnp.int32)]
    with jax.set_mesh(MESH):
        outputs = (layouts[0], tuple(layouts[:4]))
        jitted = jax.jit(run, in_shardings=(*layouts, layouts[0], layouts[0]), out_shardings=outputs)
        compiled = jitted.lower(*shapes).compile()
    return compiled, lambda *arrays: compiled(*jax.device_put(arrays, (*layouts, layouts[0], layouts[0])))


@functools.cache
def dense(softcap):
    """Dense attention with gradients."""
    options = {"position_bias": None, "query_index_BT": jnp.arange(T)[None], "dropout_rate": 0.0, "key": None}
    attention = functools.partial(xla_attention, scale=0.4, softcap=softcap, **options)
    return jax.jit(functools.partial(with_gradients, attention))


def bounds_of(mask):
    return tuple(jnp.broadcast_to(bound, (B, T)) for bound in (mask.start_BT, mask.end_BT))


def assert_equal_to_dense(form, mask):
    _, options, dtype, tolerance = FORMS[form]
    start_BT, end_BT = bounds_of(mask)
    actual = ring(form)[1](*operands(dtype), start_BT, end_BT)
    arrays = [array.astype(jnp.float32) for array in operands(dtype)]
    expected = dense(options["softcap"])(*arrays, masks.IntervalMask(start_BT=start_BT, end_BT=end_BT))
    for mine, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine.astype(jnp.float32), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MASKS)
def test_output_and_gradients_are_those_of_dense_attention(name):
    assert_equal_to_dense("zigzag", MASKS[name])


@pytest.mark.parametrize("segments", [SEGMENTS, jnp.ones_like(SEGMENTS)])
def test_under_a_window_keys_stop_early(segments):
    assert_equal_to_dense("window", masks.windowed(masks.packed(segments), 26))


def test_the_devices_that_a_window_reaches_by_hand():
    # The first of 22 queries sees itself and the window before it: 22 keys before are one device, 23 are two.
    windows = {1: 1, 2: 2, 23: 2, 24: 3, 26: 3, 45: 3, 46: 4, 1000: 4, None: 4}
    assert {window: num_visits(window, size=4, num_keys=22) for window in windows} == windows


def test_no_gradient_flows_to_a_key_that_is_not_seen():
    start_BT, end_BT = bounds_of(MASKS["packed"])
    query, key, value, sinks, grad = operands()
    asked = np.zeros(T, bool)
    asked[[3, 40, 87]] = True
    grad = jnp.where(asked[None, :, None, None], grad, 0.0)
    _, (grad_query, *grads, _) = ring("zigzag")[1](query, key, value, sinks, grad, start_BT, end_BT)
    seen_BS = np.asarray(MASKS["packed"].dense(T))[:, asked].any(axis=1)
    for gradient in grads:
        reached_BS = np.abs(gradient).sum(axis=(2, 3)) > 0
        np.testing.assert_array_equal(reached_BS, seen_BS)
    assert not np.abs(grad_query).sum(axis=(0, 2, 3))[~asked].any()


@pytest.mark.parametrize("form", FORMS)
def test_no_device_makes_an_array_of_a_whole_row(form):
    text = ring(form)[0].as_text()
    assert "collective-permute" in text
    assert not re.search(r"all-gather|all-to-all", text)
    shapes = {tuple(map(int, sizes.split(","))) for sizes in re.findall(r"\w\d+\[([\d,]+)\]", text)}
    assert any(T // 4 in shape for shape in shapes)
    assert not [shape for shape in shapes if T in shape]


def test_parts_of_the_keys_by_the_tpu_kernels_make_dense_attention():
    """Two parts of 128 keys, queries of which see both, one or none; run step by step without a TPU."""
    random = np.random.default_rng(1)
    shapes = ((1, 128, 4, 16), (1, 256, 2, 16), (1, 256, 2, 32), (1, 128, 4, 32))
    query, key, value, grad = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes)
    start_BT = jnp.arange(0, 256, 2)[None]
    mask = masks.IntervalMask(start_BT=start_BT, end_BT=start_BT + 40 * (start_BT % 5 > 0))
    attention = functools.partial(attend, mask=mask, backend="xla")
    output, pull_back = jax.vjp(jax.jit(attention), query, key, value)

    partial = partial_tpu(query, key[:, :128], scale=0.25, softcap=None, interpret=True)
    forward, gradients = jax.jit(partial.forward), jax.jit(partial.gradients)
    queries, seen = partial.to_queries(query), []
    for first in (0, 128):
        arrays = [partial.to_keys(array[:, first : first + 128]) for array in (key, value)]
        seen.append(Part(*arrays, *(jnp.clip(bound - first, 0, 128) for bound in (start_BT, mask.end_BT))))
    merged, log_sum = merge(forward(queries, seen[0]), forward(queries, seen[1]))
    np.testing.assert_allclose(partial.from_queries(merged, 128), output, atol=2e-5)

    by_query = {"log_sum": jnp.where(log_sum == -jnp.inf, NO_KEY, log_sum), "grad_output": partial.to_queries(grad)}
    by_query["mean"] = partial.to_queries(jnp.sum(output * grad, axis=-1, keepdims=True))
    (grad_query, *grads), (more, *others) = (gradients(queries, part, **by_query) for part in seen)
    found = [partial.from_queries(grad_query + more, 128)]
    found += [
        jnp.concatenate([partial.from_keys(g, 128) for g in pair], axis=1) for pair in zip(grads, others, strict=True)
    ]
    for mine, right in zip(found, pull_back(grad), strict=True):
        np.testing.assert_allclose(mine, right, atol=2e-5)


def test_zigzag_gives_every_device_the_same_pairs_at_every_step():
    size, length = 4, 6
    parts = RowParts(axis="context", size=size, zigzag=True)
    halves = [(device, 2 * size - 1 - device) for device in range(size)]
    positions = [np.concatenate([np.arange(3 * half, 3 * half + 3) for half in pair]) for pair in halves]
    for step in range(size):
        pairs = set()
        for device in range(size):
            owner = (device - step) % size
            place = parts.places(jnp.asarray(positions[device] + 1)[None], jnp.asarray(owner), length)
            pairs.add(int(place.sum()))
            visible = positions[owner][None, :] <= positions[device][:, None]
            np.testing.assert_array_equal(place[0], visible.sum(axis=1))
        assert pairs == ({21} if step == 0 else {18})


def test_zigzag_moves_halves_and_is_undone():
    parts = RowParts(axis="context", size=4, zigzag=True)
    row = jnp.arange(16)[None]

    def moved(array):
        return parts.spread(array), parts.collect(parts.spread(array))

    spec = PartitionSpec(None, "context")
    with jax.set_mesh(MESH):
        spread, back = jax.jit(jax.shard_map(moved, in_specs=spec, out_specs=(spec, spec), check_vma=False))(row)
    assert spread[0].tolist() == [0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9]
    np.testing.assert_array_equal(back, row)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position_bias": AlibiBias(slopes_N=jnp.ones(N))}, "a position bias"),
        ({"dropout_rate": 0.5, "key": jax.random.key(0)}, "attention dropout"),
        ({"backend": "xla"}, r"backend='xla' \(only auto, tpu, chunked\)"),
    ],
)
def test_what_the_ring_cannot_do_is_refused(options, message):
    query, key, value, *_ = operands()
    with jax.set_mesh(MESH), pytest.raises(ValueError, match=f"'ring' cannot do {message}: use context="):
        attend(query, key, value, MASKS["causal"], context="ring", **options)


def test_rows_that_the_mesh_does_not_split_are_computed_as_ever():
    query, key, value, *_ = operands()
    short = dataclasses.replace(
        MASKS["causal"], start_BT=MASKS["causal"].start_BT[:, :5], end_BT=MASKS["causal"].end_BT[:, :5]
    )
    arrays = (query[:, :5], key[:, :5], value[:, :5], short)
    with jax.set_mesh(MESH):
        programs = {str(jax.make_jaxpr(functools.partial(attend, context=c))(*arrays)) for c in ("gather", "ring")}
    assert len(programs) == 1
    with pytest.raises(ValueError, match="context='rign': use one of gather, ring"):
        attend(*arrays, context="rign")
