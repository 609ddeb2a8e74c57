"""Transformer-XL's memory: what is remembered, from where no gradient comes, and that a run carries it on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.data.config import DataConfig
from lmjax.models.segment_memory import empty_memory, run_with_memory
from lmjax.objectives import CausalLM, SegmentRecurrentLM
from lmjax.types import Rows, make_stream

MODEL = dataclasses.replace(tiny.MODEL, num_layers=3, windows=(None, 7))
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 60, (4, 24)), jnp.int32)


@functools.cache
def built(positions: str):
    spec = tiny.model_spec(dataclasses.replace(MODEL, positions=positions))
    return spec, tiny.random_params(spec)


@functools.cache
def segment(positions: str):
    spec, _ = built(positions)
    return jax.jit(lambda params, tokens, memory: run_with_memory(spec.bind(params), tokens, memory))


@pytest.mark.parametrize("positions", ["rope", "alibi"])
def test_segments_with_enough_memory_equal_one_long_row(positions):
    spec, params = built(positions)
    whole = jax.jit(lambda p: spec.bind(p)(make_stream(TOKENS, None, "causal")).states_BTD)(params)
    memory = empty_memory(spec.bind(params).config, num_rows=4, length=16)
    for start in (0, 8, 16):
        hidden, memory = segment(positions)(params, TOKENS[:, start : start + 8], memory)
        np.testing.assert_allclose(hidden.states_BTD, whole[:, start : start + 8], atol=5e-5)
    np.testing.assert_array_equal(memory.filled_B, 16)


def test_a_short_memory_forgets_and_passes_no_gradient():
    spec, params = built("rope")

    def last(table_VD, length):
        model = spec.bind({**params, "embedding": {"table_VD": table_VD}})
        memory = empty_memory(model.config, num_rows=1, length=length)
        unique = jnp.arange(16, dtype=jnp.int32)[None]
        _, memory = run_with_memory(model, unique[:, :8], memory)
        hidden = run_with_memory(model, unique[:, 8:], memory)[0].states_BTD
        return jnp.sum(hidden**3)

    table = params["embedding"]["table_VD"]
    gradient = jax.jit(jax.grad(lambda table: last(table, 4)))(table)
    assert not np.asarray(gradient[:8]).any() and np.asarray(gradient[8:16]).all()
    value = jax.jit(last, static_argnums=1)
    # The oldest token is beyond the memory of 4 (layers reach further back only by what memory held).
    changed = table.at[7].add(1.0)
    assert abs(value(table, 4) - value(changed, 4)) > 1e-3


@functools.cache
def learner(**options):
    objective = SegmentRecurrentLM(memory_length=6)
    one = tiny.learner(objective, model=MODEL)
    return dataclasses.replace(one, new_carry=functools.partial(objective.initial_carry, MODEL, 8), **options)


def rows_of(step: int) -> Rows:
    stream = np.random.default_rng(1).integers(0, 60, (8, 200)).astype(np.int32)
    return Rows(tokens_BT=jnp.asarray(stream[:, step * 8 : step * 8 + 9]))


def trained(built, steps: int):
    state = built.init(0)
    losses = []
    with jax.set_mesh(built.mesh):
        for step in range(steps):
            state, metrics = built.train_step(state, jax.device_put(rows_of(step), built.row_sharding))
            losses.append(float(metrics["loss"]))
    return losses, state


@pytest.mark.long
def test_the_state_carries_the_memory_of_each_row_from_step_to_step():
    losses, state = trained(learner(), 2)
    fresh = learner().init(0)
    np.testing.assert_array_equal(fresh.carry.filled_B, 0)
    np.testing.assert_array_equal(state.carry.filled_B, 6)
    embedded = fresh.params["model"]["embedding"]["table_VD"][rows_of(0).tokens_BT[:, 2:8]]
    _, after_one = trained(learner(), 1)
    np.testing.assert_allclose(after_one.carry.states_BLMD[:, 0], embedded, atol=1e-6)
    plain = tiny.learner(CausalLM(), model=MODEL)
    without, _ = trained(plain, 2)
    assert losses[0] == pytest.approx(without[0], abs=1e-5) and abs(losses[1] - without[1]) > 1e-6


def test_what_cannot_remember_is_refused():
    check = functools.partial(SegmentRecurrentLM().check, vocabulary=tiny.VOCABULARY, sequence_length=8)
    with pytest.raises(ValueError, match="model.positions='learned': a memory lies before position 0"):
        check(model=dataclasses.replace(MODEL, positions="learned"))
    with pytest.raises(ValueError, match="mamba2 keep a state"):
        check(model=dataclasses.replace(tiny.MODEL, mixers=("mamba2",), mamba2=tiny_mamba()))
    with pytest.raises(ValueError, match="data.packing='windows'.*set it to streams"):
        SegmentRecurrentLM().check_data(DataConfig())


def tiny_mamba():
    from lmjax.models.recurrent import Mamba2Config

    return Mamba2Config(head_width=8, state_width=4)
