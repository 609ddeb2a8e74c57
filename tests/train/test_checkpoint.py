"""Checkpoints come back to the bit, elsewhere too, and whatever happened to the disk says so."""

import dataclasses
import gc
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from lmjax.parallel.mesh import MeshConfig, make_mesh
from lmjax.train.checkpoint import CheckpointConfig, CheckpointError, Checkpoints, storage
from lmjax.train.checkpoint import checkpoints as checkpoints_module
from lmjax.train.checkpoint.checksums import SUMS

KILLED = pathlib.Path(__file__).parent / "kill_mid_save.py"
MESH = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
SPECS = {
    "embedding": {"table": PartitionSpec("tensor", "fsdp")},
    "blocks": {"up": PartitionSpec(None, "fsdp", "tensor")},
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    key: jax.Array


def make_state(step: int, *, width: int = 8, ema: bool = True, optimizer=None, sharded: bool = True) -> State:
    rng = np.random.default_rng(step)
    params = {
        "embedding": {"table": rng.normal(size=(4, width)).astype(np.float32)},
        "blocks": {"up": rng.normal(size=(2, width, 4)).astype(np.float32)},
    }
    if sharded:
        params = jax.tree.map(lambda p, s: jax.device_put(p, NamedSharding(MESH, s)), params, SPECS)
    else:
        params = jax.tree.map(jnp.asarray, params)
    optimizer = optimizer or optax.adamw(1e-3, mu_dtype=jnp.bfloat16)
    return State(
        step=jnp.int32(step),
        params=params,
        opt_state=jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), optimizer.init(params)),
        ema=jax.tree.map(lambda p: p * 2, params) if ema else None,
        key=jax.random.key(step),
    )


def abstract(state, sharding=None):
    def leaf(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding or array.sharding)

    return jax.tree.map(leaf, state)


def assert_same(state, other):
    def same(a, b):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))

    assert jax.tree.structure(state) == jax.tree.structure(other)
    jax.tree.map(same, jax.tree.map(jnp.atleast_1d, state), jax.tree.map(jnp.atleast_1d, other))


@pytest.fixture
def notices():
    return []


@pytest.fixture
def saved(tmp_path, notices):
    """Checkpoints of steps 10 and 20, closed."""
    with Checkpoints(tmp_path / "run") as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, make_state(step), {"rows": step * 3})
    return tmp_path / "run"


def arrays_of(folder: pathlib.Path, part: str) -> pathlib.Path:
    return max((p for p in (folder / part).rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_round_trip_is_bit_equal_with_shardings(saved):
    with Checkpoints(saved) as checkpoints:
        state, data = checkpoints.restore(abstract(make_state(20)))
        assert_same(state, make_state(20))
        assert data == {"rows": 60}
        assert state.params["blocks"]["up"].sharding.spec == SPECS["blocks"]["up"]
        assert state.opt_state[0].mu["blocks"]["up"].dtype == jnp.bfloat16
        assert isinstance(state.opt_state[0], optax.ScaleByAdamState)
        np.testing.assert_array_equal(jax.random.bits(state.key, (3,)), jax.random.bits(jax.random.key(20), (3,)))
        older, data = checkpoints.restore(abstract(make_state(10)), step=10)
        assert_same(older, make_state(10))
        assert data == {"rows": 30}
        with pytest.raises(ValueError, match=r"no checkpoint of step 15 in .*run: there are \[10, 20\]"):
            checkpoints.restore(abstract(make_state(10)), step=15)


def test_other_devices(saved):
    """Eight devices to one, and one to another mesh."""
    one = SingleDeviceSharding(jax.devices()[3])
    with Checkpoints(saved, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(abstract(make_state(20), one))
        assert_same(state, make_state(20))
        assert state.params["blocks"]["up"].sharding == one
        everywhere = NamedSharding(make_mesh(MeshConfig(data=8)), PartitionSpec())
        state, _ = checkpoints.restore(abstract(make_state(20), everywhere))
        assert_same(state, make_state(20))
        unplaced = jax.eval_shape(lambda: make_state(20, sharded=False))
        assert_same(checkpoints.restore(unplaced)[0], make_state(20))


def test_parameters_alone(saved, monkeypatch):
    read = []
    load = storage.ocp.load_checkpointables
    monkeypatch.setattr(storage.ocp, "load_checkpointables", lambda f, parts: read.extend(parts) or load(f, parts))
    flip_bit(arrays_of(saved / "20", "training"))
    wanted = abstract(make_state(20).params)
    with Checkpoints(saved, read_only=True) as checkpoints:
        params, step = checkpoints.restore_params(wanted, ema=False)
        assert_same(params, make_state(20).params)
        assert step == 20
        average, _ = checkpoints.restore_params(wanted)
        assert_same(average, make_state(20).ema)
    assert read == ["contents", "params", "contents", "ema"]


def test_parameters_of_a_run_without_average(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1, ema=False))
        checkpoints.wait()
        wanted = abstract(make_state(1).params)
        assert_same(checkpoints.restore_params(wanted)[0], make_state(1).params)
        with pytest.raises(ValueError, match="hold no ema"):
            checkpoints.restore_params(wanted, ema=True)


def test_state_may_be_donated_once_save_returns(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 - 1, state), donate_argnums=0)
    params = {"w": jnp.arange(1 << 20, dtype=jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": params})
        for _ in range(3):
            params = overwrite(params)
        checkpoints.wait()
        restored, data = checkpoints.restore(abstract({"params": params}))
    np.testing.assert_array_equal(restored["params"]["w"], np.arange(1 << 20, dtype=np.float32))
    assert data is None


def test_what_is_kept(tmp_path):
    small = {"params": {"w": jnp.zeros(2)}}
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=2, keep_every=20)) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (10, 20, 30, 40, 50):
            assert checkpoints.save(step, small)
        checkpoints.wait()
        assert checkpoints.steps() == [20, 40, 50]
        assert checkpoints.latest_step() == 50
        assert not checkpoints.save(50, small)
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=None)) as checkpoints:
        with pytest.raises(CheckpointError, match="already has a checkpoint of step 50"):
            checkpoints.save(50, small)
        checkpoints.restore(small)
        assert not checkpoints.save(50, small)
        checkpoints.save(60, small)
    assert checkpoints.steps() == [20, 40, 50, 60]


def test_when_to_save(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints_module.time, "monotonic", lambda: now[0])
    with Checkpoints(tmp_path, CheckpointConfig(every_steps=5, every_minutes=2)) as checkpoints:
        assert [step for step in range(12) if checkpoints.should_save(step)] == [5, 10]
        now[0] = 119.0
        assert not checkpoints.should_save(6)
        now[0] = 120.0
        assert checkpoints.should_save(6)
        checkpoints.save(6, {"params": {"w": jnp.zeros(2)}})
        now[0] = 239.0
        assert not checkpoints.should_save(7)
        now[0] = 240.0
        assert checkpoints.should_save(7)
    with Checkpoints(tmp_path, CheckpointConfig(every_steps=None)) as checkpoints:
        assert not checkpoints.should_save(1000)


def test_sums_are_what_sha256sum_reads(saved):
    listed = {line.split("  ", 1)[1] for line in (saved / "20" / SUMS).read_text().splitlines()}
    assert listed == {p.relative_to(saved / "20").as_posix() for p in (saved / "20").rglob("*") if p.is_file()} - {SUMS}
    check = subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=saved / "20", capture_output=True, check=False)
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "index"])
def test_a_damaged_step_is_set_aside_and_the_one_before_loaded(saved, notices, damage):
    victim = arrays_of(saved / "20", "params")
    if damage == "flip":
        flip_bit(victim)
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-10])
    elif damage == "remove":
        victim.unlink()
    else:
        flip_bit(saved / "20" / "contents" / "data.json")
    with Checkpoints(saved, notify=notices.append) as checkpoints:
        state, data = checkpoints.restore(abstract(make_state(20)))
        assert_same(state, make_state(10))
        assert data == {"rows": 30}
        assert checkpoints.steps() == [10]
        assert (saved / "20.corrupt").is_dir()
        assert len(notices) == 1 and "checkpoint of step 20" in notices[0] and "20.corrupt" in notices[0]
        checkpoints.save(20, make_state(20))
        checkpoints.wait()
        assert_same(checkpoints.restore(abstract(make_state(20)))[0], make_state(20))


def test_a_damaged_step_that_was_asked_for_is_not_replaced(saved):
    flip_bit(arrays_of(saved / "20", "params"))
    with (
        Checkpoints(saved, notify=lambda _: None) as checkpoints,
        pytest.raises(CheckpointError, match=r"step 20 in .* is damaged: params/.*; others there: \[10\]"),
    ):
        checkpoints.restore(abstract(make_state(20)), step=20)


def test_all_damaged_or_none(saved, tmp_path, notices):
    for step in (10, 20):
        flip_bit(arrays_of(saved / str(step), "params"))
    with Checkpoints(saved, read_only=True, notify=notices.append) as checkpoints:
        with pytest.raises(CheckpointError, match="has no checkpoint that is intact"):
            checkpoints.restore(abstract(make_state(20)))
        assert checkpoints.steps() == [10, 20], "read-only: nothing is renamed"
    assert [n.split()[3] for n in notices] == ["20", "10"]
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="has no checkpoint;"):
            checkpoints.restore(abstract(make_state(20)))
        assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_step_without_sums_is_loaded_with_a_note_and_refused_when_unreadable(saved, notices):
    (saved / "20" / SUMS).unlink()
    with Checkpoints(saved, notify=notices.append) as checkpoints:
        assert_same(checkpoints.restore(abstract(make_state(20)))[0], make_state(20))
        assert len(notices) == 2 and "not verified" in notices[0] and "read well" in notices[1]
        assert_same(checkpoints.restore(abstract(make_state(20)))[0], make_state(20))
        assert len(notices) == 2, "it has its sums now"
        (saved / "20" / SUMS).unlink()
        for file in (saved / "20" / "params").rglob("d/*"):
            file.unlink()
        assert_same(checkpoints.restore(abstract(make_state(20)))[0], make_state(10))
        assert (saved / "20.corrupt").is_dir()
    gc.collect()


OTHERS = {
    "width": ({"width": 16}, r"params\.blocks\.up is float32\[2, 8, 4\] there and float32\[2, 16, 4\] here"),
    "average": ({"ema": False}, r"ema\.blocks\.up is float32\[2, 8, 4\] there and absent here"),
    "optimizer": (
        {"optimizer": optax.adamw(1e-3)},
        r"opt_state\.0\.mu.* is bfloat16\[2, 8, 4\] there and float32",
    ),
    "lion": ({"optimizer": optax.lion(1e-3)}, r"opt_state\.0\.mu"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_refused_at_its_first_differing_leaf(saved, name, notices):
    options, message = OTHERS[name]
    with Checkpoints(saved, notify=notices.append) as checkpoints:
        with pytest.raises(ValueError, match=f"20 is of another model or optimizer: {message}"):
            checkpoints.restore(abstract(make_state(20, **options)))
        assert checkpoints.steps() == [10, 20]
    assert not notices


def test_another_kind_of_key_is_refused(saved):
    other = dataclasses.replace(make_state(20), key=jax.random.key(0, impl="rbg"))
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(ValueError, match=r"key is key<fry>\[\] there and key<rbg>\[\] here"),
    ):
        checkpoints.restore(abstract(other))


def test_data_that_is_not_json_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="checkpoint of step 1: its data cannot be written as JSON"):
            checkpoints.save(1, make_state(1), {"rows": {1, 2}})
        assert checkpoints.save(1, make_state(1), {"rows": [1, 2.5, None, "é"]})
        checkpoints.wait()
        assert checkpoints.restore(abstract(make_state(1)))[1] == {"rows": [1, 2.5, None, "é"]}


def test_a_full_disk_is_reported_and_spares_the_past(saved):
    """A file-size limit stands in for the full disk; the write fails in the background."""
    big = dataclasses.replace(make_state(30), opt_state={"m": jax.random.normal(jax.random.key(0), (1 << 18,))})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(saved) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
        try:
            with pytest.raises(CheckpointError, match=r"step 30 could not be written to .*\[10, 20\] are intact"):
                checkpoints.save(30, big)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        checkpoints.wait()
        assert sorted(p.name for p in saved.iterdir() if p.is_dir()) == ["10", "20"], "no half-written step stays"
        assert_same(checkpoints.restore(abstract(make_state(20)))[0], make_state(20))
        assert checkpoints.save(30, big)
        checkpoints.wait()
        assert checkpoints.steps() == [10, 20, 30]


def test_a_save_that_fails_while_closing_is_reported_once(saved):
    big = {"params": {"w": jax.random.normal(jax.random.key(0), (1 << 18,))}}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        with (
            pytest.raises(CheckpointError, match="step 30 could not be written"),
            Checkpoints(saved) as checkpoints,
        ):
            checkpoints.save(30, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    checkpoints.close()


def test_a_failed_save_does_not_hide_the_error_that_ended_the_run(tmp_path, notices, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "write_sums", full)
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path, notify=notices.append) as checkpoints:
        checkpoints.save(1, make_state(1))
        _ = 1 / 0
    assert len(notices) == 1 and "No space left on device" in notices[0]
    with (
        pytest.raises(
            CheckpointError,
            match=r"step 2 could not be written to .*: .*No space left on device.*\[1\] are intact",
        ),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(2, make_state(2))


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be written to .*run: .*another run folder"):
        Checkpoints(tmp_path / "run")


def test_relative_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints("here") as checkpoints:
        checkpoints.save(1, {"params": {"w": jnp.ones(2)}})
    assert (tmp_path / "here" / "1" / SUMS).exists()


@pytest.mark.processes
def test_killed_in_the_middle_of_a_save(tmp_path):
    process = subprocess.Popen([sys.executable, KILLED, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "saving"
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("2.*")) and not (tmp_path / "2").exists():
        assert time.monotonic() < deadline and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    # A machine that is slow to kill may let the step be finished: then it must be whole.
    last = 2 if (tmp_path / "2").exists() else 1
    expected = np.ones(1 << 24) if last == 1 else np.random.default_rng(0).random(1 << 24, dtype=np.float32)
    target = {"params": {"w": jax.ShapeDtypeStruct((1 << 24,), jnp.float32)}}
    with Checkpoints(tmp_path) as checkpoints:
        assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"][:last], "unfinished steps are cleared away"
        state, data = checkpoints.restore(target)
        np.testing.assert_array_equal(state["params"]["w"], expected)
        assert data == last


@pytest.mark.parametrize("field", ["every_steps", "every_minutes", "keep_last", "keep_every"])
def test_bad_options_are_named(field):
    with pytest.raises(ValueError, match=f"checkpoint.{field}=0: must be above 0, or None"):
        CheckpointConfig(**{field: 0})
