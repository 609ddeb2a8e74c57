"""What must not be in a compiled step is found where it is, and only there."""

import types
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.compile.checks import faults, lowered_at_another_length, pair_arrays, pair_arrays_of_text, replicated_moments
from lmjax.compile.compiled import Memory, warnings_of
from lmjax.compile.hlo import parse
from lmjax.compile.step import resolved_learner
from lmjax.compile.topology import CHIPS
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.train.config import RunConfig, TrainConfig

LOGITS = """ENTRY %main (p: f32[2,512,512]) -> bf16[1024,512] {
  %p = f32[2,512,512] parameter(0)
  ROOT %r = bf16[1024,512] reshape(%p)
}
"""
LOG = (
    "W1128 09:02:03.757229    7780 spmd_partitioner.cc:654] [SPMD] Involuntary full rematerialization. The compiler "
    "cannot go from sharding {devices=[2,1,4]<=[4,2]T(1,0)} to {devices=[1,8,1]<=[8]} efficiently for HLO operation "
    "%add.2 = f32[32,64,SIZE]{2,1,0} add(%param, %param), sharding={devices=[2,1,4]<=[4,2]T(1,0)}\n"
)


def leaf(*shape, split):
    return types.SimpleNamespace(
        shape=shape, dtype=jnp.dtype("float32"), sharding=types.SimpleNamespace(is_fully_replicated=not split)
    )


def step(*, length=512, moments=(), involuntary=(), memory=None, refusal=""):
    state = types.SimpleNamespace(
        params={"w": leaf(1024, 1024, split=True), "b": leaf(1024, split=False)}, opt_state=moments
    )
    return types.SimpleNamespace(
        learner=types.SimpleNamespace(abstract_state=state),
        config=types.SimpleNamespace(
            train=types.SimpleNamespace(sequence_length=length),
            model=ModelConfig(vocab_size=64, width=128, num_layers=1, num_heads=2),
        ),
        topology=types.SimpleNamespace(chip=CHIPS["v5e"]),
        program=parse(LOGITS),
        memory=memory,
        refusal=refusal,
        involuntary=involuntary,
    )


def test_a_moment_that_every_device_holds_is_named():
    moments = {"mu": leaf(1024, 1024, split=False), "nu": leaf(1024, 1024, split=True), "of_b": leaf(1024, split=False)}
    assert replicated_moments(step(moments=moments)) == ["mu"]


def test_an_array_of_all_pairs_is_found_in_long_rows_only():
    assert pair_arrays(step(length=512)) == ["f32[2, 512, 512] "]
    assert pair_arrays(step(length=1024)) == []
    # Rows this short are dense on purpose.
    assert pair_arrays(step(length=256)) == []


def test_where_the_length_is_a_width_rows_of_another_length_are_searched():
    config = RunConfig(
        name="small",
        model=ModelConfig(width=640, num_layers=1, num_heads=4, execution=ExecutionConfig(attention="xla")),
        train=TrainConfig(batch_size=2, sequence_length=640),
    )
    chips: Any = types.SimpleNamespace(devices=jax.devices()[:2])
    config, learner = resolved_learner(config, chips)
    text, length = lowered_at_another_length(types.SimpleNamespace(config=config, learner=learner, topology=chips))
    assert length == 512
    assert "tensor<2x512x640xf32>" in text
    # Of a row, a head and a group, all logits at once.
    assert "2x4x1x512x512xf32" in pair_arrays_of_text(text, length)
    assert pair_arrays_of_text("tensor<2x512x640xf32> tensor<512xi32>", length) == []


def test_the_compilers_warnings_are_read_from_its_log(tmp_path):
    (tmp_path / "tpu_driver.host.log.WARNING.1").write_text(LOG.replace("SIZE", "16") + LOG.replace("SIZE", "4096"))
    small, large = warnings_of(str(tmp_path))
    assert small == "%add.2 = f32[32,64,16]{2,1,0}"
    memory = Memory(arguments=1, temporaries=1, other=1)
    found = faults(step(length=1024, involuntary=(small, large), memory=memory))
    assert found == [f"gathered whole: {large}"]


def test_what_does_not_fit_is_said():
    assert faults(step(length=1024, refusal="Ran out of memory\nmore")) == ["does not fit: Ran out of memory"]
    over = Memory(arguments=2**34, temporaries=0, other=0)
    assert faults(step(length=1024, memory=over))[0].startswith("does not fit: 17,179,869,184 of")
