import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from lmjax.parallel.distributed import (
    DistributedConfig,
    describe_processes,
    find_peers,
    is_launched,
    is_primary,
    local_device_ids,
    start,
)

pytestmark = pytest.mark.processes

LAUNCHER = pathlib.Path(__file__).parents[2] / "launch" / "local.py"


def launcher_module():
    specification = importlib.util.spec_from_file_location("local", LAUNCHER)
    local = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(local)
    return local


def test_a_single_process_starts_nothing(capsys):
    start(DistributedConfig(expected_processes=1, expected_devices=8))
    assert not jax.distributed.is_initialized() and is_primary()
    assert capsys.readouterr().out == "process 0 of 1: 8 local of 8 devices (8 x cpu)\n"
    assert describe_processes().startswith("process 0 of 1")


def test_a_wrong_device_count_is_refused():
    with pytest.raises(ValueError, match=r"distributed.expected_devices=64, but there are 8 devices"):
        start(DistributedConfig(expected_devices=64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_processes": 0}, "distributed.num_processes=0: must be at least 1"),
        ({"initialization_timeout": 0}, "distributed.initialization_timeout=0"),
        ({"coordinator": "node0"}, "distributed.coordinator='node0': write it as host:port"),
        ({"process_id": 2, "num_processes": 2}, "distributed.process_id=2: must be from 0"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DistributedConfig(**fields)


def test_the_environment_fills_what_is_not_given():
    environment = {"LMJAX_COORDINATOR": "node0:1", "LMJAX_NUM_PROCESSES": "4", "LMJAX_PROCESS_ID": "0"}
    found = find_peers(DistributedConfig(process_id=3), environment)
    assert (found.coordinator, found.num_processes, found.process_id) == ("node0:1", 4, 3)
    assert find_peers(DistributedConfig(), environment).process_id == 0
    assert find_peers(DistributedConfig(), {}) == DistributedConfig()
    with pytest.raises(ValueError, match="LMJAX_NUM_PROCESSES='two': must be a whole number"):
        find_peers(DistributedConfig(), {"LMJAX_NUM_PROCESSES": "two"})


@pytest.mark.parametrize(
    ("environment", "launched"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "a,b"}, True),
        ({"SLURM_NTASKS": "2"}, False),  # inside an allocation, but not under srun
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_launchers_are_recognised(environment, launched):
    assert is_launched(DistributedConfig(), environment) == launched


def test_one_slurm_task_a_node_takes_all_gpus_of_its_node():
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert local_device_ids(gpus | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}) == [0, 1, 2, 3]
    assert local_device_ids(gpus | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}) is None
    assert local_device_ids(gpus) is None


@contextlib.contextmanager
def launch(script, *options):
    command = [sys.executable, str(LAUNCHER), *options, "--", sys.executable, "-c", script]
    # Not our own settings: conftest's are of this process, and the launcher gives its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_two_processes_share_one_mesh_and_stop_after_the_same_step():
    script = """
import os, signal
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from lmjax.parallel import distributed
from lmjax.parallel.mesh import MeshConfig, make_mesh
from lmjax.train.guard import GracefulExit
distributed.start(distributed.DistributedConfig(expected_processes=2, expected_devices=4))
mesh = make_mesh(MeshConfig(data=2, fsdp=2))
local = jnp.arange(2.0) + 10 * jax.process_index()
split = P(("data", "fsdp"))
array = jax.make_array_from_process_local_data(NamedSharding(mesh, split), local)
psum = jax.shard_map(lambda x: jax.lax.psum(x, ("data", "fsdp")), mesh=mesh, in_specs=split, out_specs=P())
print("sum", float(jax.jit(psum)(array)[0]))
with GracefulExit(vote_every=2) as graceful:
    for step in range(1, 100):
        if step == 5 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if graceful.should_stop(step):
            print("stopped after", step)
            break
"""
    with launch(script, "--processes", "2", "--devices", "2") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = set(out.splitlines())
    assert {f"[{i}] process {i} of 2: 2 local of 4 devices (4 x cpu)" for i in range(2)} <= lines
    assert {"[0] sum 22.0", "[1] sum 22.0", "[0] stopped after 8", "[1] stopped after 8"} <= lines


def test_a_wrong_process_count_and_a_dying_process_end_all_quickly():
    script = """
import os
from jax.experimental import multihost_utils
from lmjax.cli.errors import run_command
from lmjax.parallel import distributed
def command():
    expected = 3 if os.environ["LMJAX_PROCESS_ID"] == "1" else 2
    distributed.start(distributed.DistributedConfig(expected_devices=expected))
    multihost_utils.sync_global_devices("the peer never comes")
run_command(command)
"""
    begin = time.monotonic()
    with launch(script, "--processes", "2", "--grace", "2") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "[1] error: distributed.expected_devices=3, but there are 2 devices: process 1 of 2" in err
    assert "process 1 failed with 2" in err  # Process 0 may have noticed, and ended, before the launcher looks.
    assert time.monotonic() - begin < 60  # Starting alone takes half of it on a machine that does much else.


@pytest.mark.parametrize(("other", "said"), [("", ""), ("time.sleep(60)", ": ending the others")])
def test_the_launcher_says_which_process_failed_whether_or_not_others_still_run(other, said):
    script = f"""
import os, sys, time
if os.environ["LMJAX_PROCESS_ID"] == "1":
    sys.exit(3)
{other}
"""
    with launch(script, "--processes", "2") as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, f"process 1 failed with 3{said}\n")


def test_the_launcher_names_the_cause_when_all_have_ended_before_it_looks(capsys):
    ended = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in (1, 2)]
    assert [process.wait(20) for process in ended] == [1, 2]
    local = launcher_module()
    group = local.Group([0, 1], pathlib.Path("no signs"), ended)
    assert local.wait(group, grace=1.0) == (2, {0, 1})
    assert capsys.readouterr().err == "process 1 failed with 2\n"


def test_a_peer_that_never_comes_is_an_error_with_a_remedy():
    script = """
from lmjax.parallel import distributed
import os, time
if os.environ["LMJAX_PROCESS_ID"] == "1":
    time.sleep(60)
distributed.start(distributed.DistributedConfig(initialization_timeout=1))
"""
    with launch(script, "--processes", "2", "--grace", "0") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "[0] error: distributed start-up of process 0 of 2 failed: not all processes came up within" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 7), (signal.SIGINT, 7)])
def test_the_launcher_passes_signals_on_and_returns_the_exit_code(number, code):
    script = f"""
import os, signal, sys, time
signal.signal({int(number)}, lambda *_: sys.exit({code} if os.environ["LMJAX_PROCESS_ID"] == "1" else 0))
print("ready")
time.sleep(60)
"""
    with launch(script, "--processes", "2") as process:
        ready = [process.stdout.readline() for _ in range(2)]
        assert sorted(ready) == ["[0] ready\n", "[1] ready\n"]
        process.send_signal(number)
        assert process.wait(20) == code


def is_running(process_id: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_killed_launcher_takes_its_processes_and_theirs_with_it(number):
    script = """
import os, signal, subprocess, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print(os.getpid(), subprocess.Popen(["sleep", "60"]).pid)
time.sleep(60)
"""
    with launch(script, "--processes", "2") as process:
        ids = [int(word) for _ in range(2) for word in process.stdout.readline().split()[1:]]
        assert len(ids) == 4 and all(map(is_running, ids))
        process.send_signal(number)
        assert process.wait(10) == -number
        deadline = time.monotonic() + 20
        while any(map(is_running, ids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(is_running, ids))
        # And whoever read its output is told that it has ended.
        assert process.stdout.read() == ""


def test_the_launcher_goes_on_when_nobody_reads_it(tmp_path):
    script = f"""
import os, pathlib
for _ in range(20_000):
    print("a line, too many of them for a pipe to hold \u2026")
pathlib.Path({str(tmp_path)!r}, os.environ["LMJAX_PROCESS_ID"]).touch()
"""
    with launch(script, "--processes", "2") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0, process.stderr.read()
        assert process.stderr.read() == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "2"], "say what to run after --"),
        (["--processes", "0", "--", "true"], "must be at least 1"),
        (["--", "no-such-program"], "cannot run no-such-program: No such file"),
    ],
)
def test_the_launcher_says_what_it_cannot_do(arguments, message):
    done = subprocess.run([sys.executable, str(LAUNCHER), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    ("codes", "first"),
    [
        ([1, 2], 1),  # Process 1 refused its settings, and process 0 noticed that it had gone.
        ([-6, 2, None], 1),
        ([-9, 1], 0),
        ([1, 1], 0),
        ([None, 0, 1], 2),
        ([1, -6], 0),
    ],
)
def test_the_process_that_failed_by_itself_is_named(codes, first):
    assert launcher_module().first_to_fail(codes) == first
