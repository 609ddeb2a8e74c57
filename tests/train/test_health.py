"""What a long run tells about itself: where its time goes, and whether its hardware computes right."""

import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax.parallel.mesh import MeshConfig, make_mesh
from lmjax.parallel.roll_call import RollCall
from lmjax.train.goodput import Goodput
from lmjax.train.integrity import SilentCorruption, StepProbe, bit_sum, compare_replicas


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_every_second_of_a_run_is_counted_once_also_over_restarts():
    clock = Clock()
    clock.now += 10  # what starts takes, from 1000 on
    first = Goodput(started=1000.0, clock=clock)
    with first.spending("compile"):
        clock.now += 5
        with first.spending("data"):
            clock.now += 1
    clock.now += 50
    with first.spending("saving"):
        clock.now += 2
        saved = first.to_json(ends=False)
        clock.now += 2
    clock.now += 30  # steps that are lost with the process
    assert first.seconds() == {"restart": 10, "compile": 6, "steps": 80, "saving": 4, "data": 0, "evaluation": 0}
    assert first.share() == 80 / 100

    clock.now += 100
    again = Goodput(saved, started=clock.now - 5, clock=clock)
    # What was not yet in the account when it was saved, two seconds of saving, is lost time now.
    assert again.seconds() == {"restart": 144, "compile": 6, "steps": 50, "saving": 0, "data": 0, "evaluation": 0}
    clock.now += 8
    orderly = again.to_json(ends=True)
    clock.now += 10_000
    later = Goodput(orderly, started=clock.now - 3, clock=clock)
    assert later.seconds()["restart"] == 144 + 3 and later.seconds()["steps"] == 58
    assert "of 211 s went into steps; compile 6 s" in later.summary()
    assert Goodput({"steps": "x", "saved_at": -1}, started=clock.now, clock=clock).seconds()["steps"] == 0


def test_any_flipped_bit_changes_the_sum():
    array = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    flipped = array.copy()
    flipped.view(np.uint32)[3, 2] ^= 1 << 30
    assert int(bit_sum(jnp.asarray(array))) != int(bit_sum(jnp.asarray(flipped)))
    assert int(bit_sum(jnp.asarray(array))) == int(array.view(np.uint32).sum(dtype=np.uint32))
    assert int(bit_sum(jnp.array([True, False, True]))) == 2


def test_a_replica_that_differs_is_named_with_its_device():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    whole = np.arange(8, dtype=np.float32)
    sharding = NamedSharding(mesh, PartitionSpec(("fsdp",)))
    good = jax.device_put(whole, sharding)
    compare_replicas({"model": {"w": good}}, step=3)
    parts = [np.array(shard.data) for shard in good.addressable_shards]
    parts[5][1] = np.nextafter(parts[5][1], 100)
    devices = [shard.device for shard in good.addressable_shards]
    bad = jax.make_array_from_single_device_arrays(
        (8,), sharding, [jax.device_put(part, device) for part, device in zip(parts, devices, strict=True)]
    )
    with pytest.raises(SilentCorruption) as raised:
        compare_replicas({"model": {"w": bad}}, step=3)
    assert (
        f"step 3: model.w is not the same on all devices that hold it: different on {devices[5]} of process 0"
        in str(raised.value)
    )


def test_a_step_is_the_same_twice_and_a_wrong_bit_is_named():
    sharding = NamedSharding(make_mesh(MeshConfig()), PartitionSpec())
    step = jax.jit(lambda state, rows: ({"a": state["a"] * 2, "b": state["b"] + rows}, {"loss": rows.sum()}))
    learner = types.SimpleNamespace(
        mesh=sharding.mesh, state_shardings=sharding, row_sharding=sharding, take_step=step, compiler_options={}
    )
    probe, rows = StepProbe(learner), jnp.arange(3.0)
    state = {"a": jnp.ones(2), "b": jnp.zeros(3)}
    probe.check(state, rows, step=4)
    sums, calls = probe._sums, []

    def with_a_flip(state, rows):
        calls.append(np.array(sums(state, rows)))
        calls[-1][1] ^= 1 << 7 if len(calls) == 2 else 0
        return calls[-1]

    probe._sums = with_a_flip
    with pytest.raises(SilentCorruption, match="step 4: computed twice, it is not the same in b: a device"):
        probe.check(state, rows, step=4)


def test_the_roll_call_names_who_is_gone_silent_or_behind(tmp_path):
    calls = [RollCall(tmp_path / ".alive", process=n, num_processes=4, seconds=10) for n in range(4)]
    for process, step in ((0, 7), (1, 7), (2, 6)):
        calls[process].sign(step)
    now = (tmp_path / ".alive" / "0").stat().st_mtime
    os.utime(tmp_path / ".alive" / "1", (now - 100, now - 100))
    silent, behind, unheard = calls[0].absent()
    assert silent.startswith("process 1 is gone or stopped (last sign 10")
    assert behind == "process 2 is at step 6 while others are at step 7"
    assert unheard == "process 3 has given no sign of life"
    for call in calls:
        call.leave()
    assert not (tmp_path / ".alive").exists()
