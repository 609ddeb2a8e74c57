"""Mamba-2 and RWKV-6: layers against others' and their equations, chunks, resets, caches, causality by gradient."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax import masks
from lmjax.kernels.recurrence import linear_recurrence, shifted
from lmjax.masks import IntervalMask
from lmjax.models.cache import empty_cache
from lmjax.models.execution import ExecutionConfig
from lmjax.models.mamba import Mamba2
from lmjax.models.parameters import module_spec
from lmjax.models.recurrent import Mamba2Config, Rwkv6Config
from lmjax.models.rwkv import Rwkv6
from lmjax.objectives import MaskedLM
from lmjax.types import Stream, make_stream

T = 12
MODEL = dataclasses.replace(
    tiny.MODEL,
    mamba2=Mamba2Config(head_width=8, state_width=6, groups=2),
    rwkv6=Rwkv6Config(head_width=8, mix_rank=4, decay_rank=4),
    execution=ExecutionConfig(mamba2_chunk=5, rwkv6_chunk=5),
)
VARIANTS = {
    "mamba2": dataclasses.replace(MODEL, mixers=("mamba2",), positions="none"),
    "mamba2_alone": dataclasses.replace(
        MODEL,
        mixers=("mamba2",),
        positions="none",
        feedforward_width=0,
        bias=True,
        mamba2=dataclasses.replace(MODEL.mamba2, convolution_bias=True),
    ),
    "rwkv6": dataclasses.replace(MODEL, mixers=("rwkv6",), positions="none"),
    "hybrid": dataclasses.replace(MODEL, mixers=("mamba2", "attention", "rwkv6"), num_layers=4, windows=(None, 3)),
}
SEGMENTS = jnp.asarray(tiny.segments([[5, 4], [3, 9]], T))
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 60, (2, T)), jnp.int32)


def recurrence_inputs(decays_a_head: bool, seed: int = 0):
    rng = np.random.default_rng(seed)
    query, key = rng.normal(size=(2, 2, 11, 3, 4)).astype(np.float32)
    value = rng.normal(size=(2, 11, 3, 5)).astype(np.float32)
    # From hardly any decay to one that leaves nothing: exp(-100).
    log_decay = -np.exp(rng.uniform(-4, 4.6, size=(2, 11, 3, 1 if decays_a_head else 4))).astype(np.float32)
    begins = np.zeros((2, 11), bool)
    begins[0, [0, 6]] = begins[1, [3, 4]] = True
    state = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    return query, key, value, log_decay, begins, state


@pytest.mark.parametrize("bonus", [None, "given"])
@pytest.mark.parametrize("decays_a_head", [True, False])
def test_chunks_equal_the_recurrence_written_out(decays_a_head, bonus):
    query, key, value, log_decay, begins, state = recurrence_inputs(decays_a_head)
    bonus_NH = None if bonus is None else np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    out, last = linear_recurrence(
        query, key, value, log_decay, begins_BT=jnp.asarray(begins), state_BNHP=state, bonus_NH=bonus_NH, chunk=4
    )
    now = state.astype(np.float64)
    for t in range(11):
        now = np.where(begins[:, t, None, None, None], 0.0, now)
        written = np.einsum("bnh,bnp->bnhp", key[:, t], value[:, t])
        after = now * np.exp(log_decay[:, t].astype(np.float64))[..., None] + written
        read = after if bonus_NH is None else now + bonus_NH[None, :, :, None] * written
        np.testing.assert_allclose(out[:, t], np.einsum("bnh,bnhp->bnp", query[:, t], read), atol=1e-4)
        now = after
    np.testing.assert_allclose(last, now, atol=1e-4)


def test_gradients_of_strong_decays_are_finite():
    query, key, value, log_decay, begins, _ = recurrence_inputs(False)

    def loss(log_decay):
        out, _ = linear_recurrence(query, key, value, log_decay, begins_BT=jnp.asarray(begins), chunk=4)
        return jnp.sum(out**2)

    assert np.isfinite(jax.grad(loss)(10 * log_decay)).all()


def test_shifted_stops_at_the_document_and_goes_on_from_a_cache():
    x_BTC = jnp.arange(1.0, 7.0)[None, :, None]
    positions = jnp.asarray([[0, 1, 2, 0, 1, 2]])
    window, last = shifted(x_BTC, positions, 3)
    expected = [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 4], [0, 4, 5], [4, 5, 6]]
    np.testing.assert_array_equal(window[0, :, :, 0], expected)
    np.testing.assert_array_equal(last[0, :, 0], [5, 6])
    later, _ = shifted(jnp.full((1, 1, 1), 7.0), jnp.asarray([[3]]), 3, before_BWC=last)
    np.testing.assert_array_equal(later[0, 0, :, 0], [5, 6, 7])


def test_mamba2_is_the_layer_of_transformers(golden):
    """Its weights, input and output are in tests/golden/mamba2.json; a document begins at the first token."""
    oracle = json.loads((golden / "mamba2.json").read_text())
    weights = {name: np.asarray(value, np.float32) for name, value in oracle["weights"].items()}
    x_BTD, expected = np.asarray(oracle["input"], np.float32), np.asarray(oracle["output"])
    config = dataclasses.replace(
        MODEL,
        width=8,
        norm_epsilon=oracle["epsilon"],
        mamba2=Mamba2Config(head_width=4, state_width=3, groups=2, convolution=3),
        execution=ExecutionConfig(mamba2_chunk=4),
    )
    heads, groups = (4, 4), (2, 3)
    shapes = {"gate": heads, "value": heads, "key": groups, "query": groups, "step": (4,)}
    rows = np.split(weights["in_proj.weight"], np.cumsum([16, 16, 6, 6]))
    taps = np.split(weights["conv1d.weight"][:, 0].T, [16, 22], axis=1)
    params = {name: {"weight": row.T.reshape(8, *shapes[name])} for name, row in zip(shapes, rows, strict=True)}
    for name, tap in zip(("value", "key", "query"), taps, strict=True):
        params[f"{name}_convolution"] = tap.reshape(3, *shapes[name])
    params |= {
        "out": {"weight": weights["out_proj.weight"].T.reshape(*heads, 8)},
        "norm_scale_NP": weights["norm.weight"].reshape(heads),
        "log_decay_N": weights["A_log"],
        "step_bias_N": weights["dt_bias"],
        "skip_N": weights["D"],
    }
    spec = module_spec(lambda key: Mamba2(config, rngs=nnx.Rngs(params=key)))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, spec.shapes)
    positions = jnp.broadcast_to(jnp.arange(7)[None], (2, 7))
    found, _ = jax.jit(lambda params, x: spec.bind(params)(x, positions))(params, x_BTD)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rwkv6_is_the_papers_equations_token_by_token():
    config = dataclasses.replace(
        MODEL, rwkv6=Rwkv6Config(head_width=8, mix_rank=4, decay_rank=5), execution=ExecutionConfig(rwkv6_chunk=3)
    )
    spec = module_spec(lambda key: Rwkv6(config, rngs=nnx.Rngs(params=key)))
    params = tiny.random_params(spec)
    x_TD = np.random.default_rng(2).normal(size=(7, 16))
    positions = np.array([0, 1, 2, 0, 1, 2, 3])
    found, _ = jax.jit(lambda params, x: spec.bind(params)(x, jnp.asarray(positions)[None]))(params, x_TD[None])
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    names = ("decay", "key", "value", "receptance", "gate")
    state = np.zeros((2, 8, 8))
    for t in range(7):
        state *= positions[t] > 0
        change = (0 if positions[t] == 0 else x_TD[t - 1]) - x_TD[t]
        low = np.tanh((x_TD[t] + change * p["mix_MD"][0]) @ p["mix_down"]["weight"].reshape(16, -1)).reshape(5, 4)
        mixed = {
            name: x_TD[t] + change * (p["mix_MD"][1 + m] + low[m] @ p["mix_up"][m]) for m, name in enumerate(names)
        }
        r, k, v, g = (
            np.tensordot(mixed[name], p[name]["weight"], 1) for name in ("receptance", "key", "value", "gate")
        )
        raised = np.tensordot(np.tanh(mixed["decay"] @ p["decay_down"]["weight"]), p["decay_up"]["weight"], 1)
        written = k[:, :, None] * v[:, None, :]
        out = np.einsum("nh,nhp->np", r, state + p["bonus_NH"][:, :, None] * written)
        state = np.exp(-np.exp(p["decay_NH"] + raised))[:, :, None] * state + written
        out = (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + config.norm_epsilon)
        out = (out * p["norm_scale_NH"] + p["norm_bias_NH"]) * g / (1 + np.exp(-g))
        np.testing.assert_allclose(found[0, t], np.tensordot(out, p["out"]["weight"], 2), atol=1e-4)


@functools.cache
def built(name: str):
    spec = tiny.model_spec(VARIANTS[name])
    return spec, tiny.random_params(spec)


@functools.cache
def forward(name: str):
    return jax.jit(lambda params, stream: built(name)[0].bind(params)(stream).states_BTD)


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_documents_equal_the_same_documents_alone(name):
    _, params = built(name)
    packed = forward(name)(params, make_stream(TOKENS, SEGMENTS, "causal"))
    for row, start, end in ((0, 5, 9), (1, 3, 12)):
        alone = forward(name)(params, make_stream(TOKENS[row : row + 1, start:end], None, "causal"))
        np.testing.assert_allclose(packed[row, start:end], alone[0], atol=5e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_cached_decoding_equals_the_full_forward_pass(name):
    spec, params = built(name)
    full = forward(name)(params, make_stream(TOKENS, None, "causal"))

    @jax.jit
    def extend(params, tokens_BT, positions_BT, caches):
        mask = IntervalMask(start_BT=jnp.zeros_like(positions_BT), end_BT=positions_BT + 1)
        return spec.bind(params).extend(Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask), caches)

    caches = empty_cache(VARIANTS[name], batch_size=2, length=T)
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (2, T))
    prompt, caches = extend(params, TOKENS[:, :7], positions[:, :7], caches)
    steps = [prompt]
    for t in range(7, T):
        step, caches = extend(params, TOKENS[:, t : t + 1], positions[:, t : t + 1], caches)
        steps.append(step)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), full, atol=1e-4)


@pytest.mark.parametrize("name", ["mamba2", "mamba2_alone", "rwkv6"])
def test_no_position_sees_the_future_or_another_document(name):
    """D hidden[t] / d embedding[s] is zero exactly where the causal mask of the document says so."""
    spec, params = built(name)
    stream = make_stream(jnp.arange(2 * T, dtype=jnp.int32).reshape(2, T), SEGMENTS, "causal")

    def hidden(table_VD):
        return jnp.sum(spec.bind({**params, "embedding": {"table_VD": table_VD}})(stream).states_BTD ** 3, axis=-1)

    influence = jax.jit(jax.jacrev(hidden))(params["embedding"]["table_VD"])
    influence = np.abs(np.asarray(influence)).sum(-1)[:, :, : 2 * T].reshape(2, T, 2, T)
    visible = np.asarray(masks.packed(SEGMENTS, "causal").dense(T))
    for row in range(2):
        # Sums of decays over a chunk cancel across a document's beginning up to rounding.
        np.testing.assert_array_equal(influence[row, :, row] > 1e-6 * influence.max(), visible[row])
        assert not influence[row, :, 1 - row].any()


def test_other_masks_are_refused_by_name():
    with pytest.raises(ValueError, match=r"mamba2, rwkv6 read from left to right and MaskedLM has a bidirectional"):
        MaskedLM().check(model=VARIANTS["hybrid"], vocabulary=tiny.VOCABULARY, sequence_length=T)
    with pytest.raises(ValueError, match=r"model.mixers=\('mamba',\)"):
        dataclasses.replace(tiny.MODEL, mixers=("mamba",))
    with pytest.raises(ValueError, match="model.rwkv6.head_width=5 does not divide"):
        dataclasses.replace(tiny.MODEL, mixers=("rwkv6",), rwkv6=Rwkv6Config(head_width=5))
