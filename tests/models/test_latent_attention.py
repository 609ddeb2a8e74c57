"""Latent attention: its equations for each token and head, what it keeps while decoding, and memory before a row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax import masks
from lmjax.masks import IntervalMask
from lmjax.models.cache import LatentCache, empty_cache
from lmjax.models.execution import ExecutionConfig
from lmjax.models.latent import LatentConfig
from lmjax.models.latent_attention import LatentAttention
from lmjax.models.parameters import module_spec
from lmjax.models.rope import rope_frequencies
from lmjax.models.summary import summarize
from lmjax.types import make_stream

T = 7
MODEL = dataclasses.replace(
    tiny.MODEL, head_width=6, latent=LatentConfig(rank=10, query_rank=7, rope_width=4, value_width=5)
)
POSITIONS = jnp.arange(T, dtype=jnp.int32)[None]


def built(config=MODEL):
    spec = module_spec(lambda key: LatentAttention(config, rngs=nnx.Rngs(params=key)))
    return spec, tiny.random_params(spec)


@pytest.mark.parametrize("query_rank", [7, None])
def test_the_papers_equations_token_by_token(query_rank):
    """DeepSeek-V2, equations 37 to 47, in float64."""
    config = dataclasses.replace(MODEL, latent=dataclasses.replace(MODEL.latent, query_rank=query_rank))
    spec, params = built(config)
    x_TD = np.random.default_rng(0).normal(size=(T, 16))
    found, _ = spec.bind(params)(jnp.asarray(x_TD, jnp.float32)[None], POSITIONS, masks.causal(T))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    frequencies = rope_frequencies(4, theta=config.rope_theta, scaling=config.rope_scaling)

    def turned(x, position):
        left, right = np.split(x, 2, axis=-1)
        sin, cos = np.sin(position * frequencies), np.cos(position * frequencies)
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

    def normalised(x, scale):
        return x / np.sqrt(np.mean(x * x) + 1e-6) * scale

    def times(x, name):
        return np.tensordot(x, p[name]["weight"], 1)

    keys, values = [], []
    for t, x in enumerate(x_TD):
        latent = normalised(times(x, "latent"), p["latent_norm"]["scale"])
        shared = np.broadcast_to(turned(times(x, "key_position"), t), (2, 4))
        keys.append(np.concatenate([times(latent, "key_content"), shared], axis=-1))
        values.append(times(latent, "value"))
        of_query = x if query_rank is None else normalised(times(x, "query_down"), p["query_norm"]["scale"])
        query = np.concatenate([times(of_query, "query_content"), turned(times(of_query, "query_position"), t)], -1)
        logits = np.einsum("nh,snh->ns", query, np.array(keys)) / np.sqrt(6 + 4)
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        out = np.einsum("ns,snv->nv", weights, np.array(values))
        np.testing.assert_allclose(found[0, t], np.tensordot(out, p["out"]["weight"], 2), atol=1e-5)


def test_a_latent_and_one_turned_key_are_kept_of_a_token():
    caches = empty_cache(MODEL, batch_size=3, length=9)
    assert all(isinstance(cache, LatentCache) for cache in caches)
    assert {leaf.shape for leaf in jax.tree.leaves(caches)} == {(3, 9, 10 + 4)}


def test_states_before_the_row_are_attended_to():
    """A row in two parts, the first as the memory of the second."""
    spec, params = built()
    x_BTD = jax.random.normal(jax.random.key(0), (1, T, 16))
    whole, _ = spec.bind(params)(x_BTD, POSITIONS, masks.causal(T))
    end_BT = jnp.arange(4, T + 1)[None]
    mask = IntervalMask(start_BT=jnp.zeros((1, T - 3), jnp.int32), end_BT=end_BT)
    part, _ = spec.bind(params)(x_BTD[:, 3:], POSITIONS[:, : T - 3], mask, before_BMD=x_BTD[:, :3])
    np.testing.assert_allclose(part, whole[:, 3:], atol=1e-5)


def test_backends_agree_in_value_and_gradient():
    stream = make_stream(jnp.asarray(np.random.default_rng(1).integers(0, 60, (2, 12))), None, "causal")
    found = []
    for attention in ("xla", "chunked"):
        spec = tiny.model_spec(
            dataclasses.replace(MODEL, execution=ExecutionConfig(attention=attention, scan_layers=False), num_layers=1)
        )
        params = tiny.random_params(spec)
        found.append(
            jax.jit(jax.grad(lambda params, spec=spec: jnp.sum(spec.bind(params)(stream).states_BTD ** 3)))(params)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *found)


@pytest.mark.long
def test_scanned_layers_equal_unrolled_ones():
    config = dataclasses.replace(MODEL, num_layers=3)
    scanned, unrolled = (
        tiny.model_spec(config),
        tiny.model_spec(dataclasses.replace(config, execution=ExecutionConfig(scan_layers=False))),
    )
    params = tiny.random_params(scanned)
    layers = {f"{i:03d}": jax.tree.map(lambda leaf, i=i: leaf[i], params["stacks"]["000"]) for i in range(3)}
    flat = {name: part for name, part in params.items() if name != "stacks"} | {"tail": layers}
    stream = make_stream(jnp.arange(12, dtype=jnp.int32)[None], None, "causal")
    np.testing.assert_allclose(
        scanned.bind(params)(stream).states_BTD, unrolled.bind(flat)(stream).states_BTD, atol=1e-5
    )


def test_products_with_keys_and_values_cost_their_own_widths():
    spec = tiny.model_spec(MODEL)
    long, short = (summarize(spec, MODEL, sequence_length=length).flops_per_token for length in (9, 8))
    # Forward and backward 6 operations a number: 10 of a query with a key, 5 of a value, of 2 heads in 2 layers.
    assert long - short == 6 * (10 + 5) * 2 * 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"positions": "alibi"}, "model.positions='alibi': with model.latent.rank=10 it can only be 'rope'"),
        ({"num_kv_heads": 1}, "model.num_kv_heads=1: with model.latent.rank=10 it can only be None"),
        ({"qk_norm": "head"}, "model.qk_norm='head'"),
        ({"attention_sinks": True}, "model.attention_sinks=True"),
        ({"encoder_layers": 1}, "model.encoder_layers=1"),
    ],
)
def test_what_does_not_go_with_latents_is_refused_by_field(fields, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(MODEL, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": -1}, "model.latent.rank=-1"),
        ({"query_rank": 0}, "model.latent.query_rank=0: must be at least 1, or None"),
        ({"rope_width": 3}, "model.latent.rope_width=3: must be an even number"),
        ({"norm_epsilon": 0.0}, "model.latent.norm_epsilon=0.0: must be positive"),
    ],
)
def test_impossible_sizes_are_refused_by_field(fields, words):
    with pytest.raises(ValueError, match=words):
        LatentConfig(**fields)
