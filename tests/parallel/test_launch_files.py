"""What the launchers say: manifests for Kubernetes, and the task of SkyPilot."""

import importlib.util
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("jobset", ROOT / "launch" / "jobset.py")
jobset = importlib.util.module_from_spec(spec)
spec.loader.exec_module(jobset)

GPUS = ["--name", "a", "--image", "i", "--nodes", "4", "--claim", "runs", "--", "lmjax", "train", "x"]
TPUS = ["--name", "a", "--image", "i", "--nodes", "4", "--chips", "4", "--tpu", "tpu-v5-lite-podslice"]


def pod_and_job(*words: str) -> tuple[dict, dict]:
    job = jobset.jobset(jobset.parse_arguments([*words]))["spec"]["replicatedJobs"][0]["template"]["spec"]
    return job["template"]["spec"], job


def test_the_pods_of_a_jobset_find_each_other_and_share_the_run():
    pod, job = pod_and_job(*GPUS)
    (container,) = pod["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert job["completions"] == job["parallelism"] == 4 and container["command"] == ["lmjax", "train", "x"]
    # The name that JobSet gives the first pod.
    assert variables["LMJAX_COORDINATOR"]["value"] == "a-workers-0-0.a:1234"
    assert variables["LMJAX_NUM_PROCESSES"]["value"] == "4" and "valueFrom" in variables["LMJAX_PROCESS_ID"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"memory": "/dev/shm", "runs": "/runs"} and {v["name"] for v in pod["volumes"]} == set(mounts)


def test_a_slice_of_tpus_is_asked_for_by_its_topology():
    pod, _ = pod_and_job(*TPUS, "--topology", "4x4", "--", "true")
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": "4"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TPUS, "--topology", "2x4", "--", "true"], "has 8 chips, not 4 x 4"),
        ([*TPUS, "--topology", "4xx", "--", "true"], "has 0 chips"),
        ([*TPUS, "--", "true"], "--tpu and --topology go together"),
        (["--name", "A_b", "--image", "i", "--", "true"], "small letters"),
        (["--name", "a" * 41, "--image", "i", "--", "true"], "up to 40"),
        (["--name", "a", "--image", "i"], "say what to run"),
        (["--name", "a", "--image", "i", "--nodes", "0", "--", "true"], "--nodes must be at least 1"),
    ],
)
def test_what_cannot_run_is_refused(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        jobset.parse_arguments(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_launchers_set_the_variables_that_lmjax_reads():
    readers = ("parallel/distributed.py", "train/checkpoint/grace.py", "remote/answered.py")
    known = {
        name for path in readers for name in re.findall(r'"(LMJAX_[A-Z_]+)"', (ROOT / "lmjax" / path).read_text())
    } | {"LMJAX_PLACE"}  # For commands that wrap lmjax.
    for name in ("sky.yaml", "slurm.sbatch", "tpu_pod.sh", "local.py", "jobset.py"):
        used = set(re.findall(r"\bLMJAX_[A-Z_]+\b", (ROOT / "launch" / name).read_text()))
        assert used <= known, name


@pytest.mark.parametrize(
    ("code", "restarts", "already", "requeued"),
    [(1, "2", "1", True), (137, "2", "", True), (1, "2", "2", False), (1, "", "", False), (2, "9", "", False)],
)
def test_a_slurm_job_goes_back_into_the_queue_after_a_fault(tmp_path, code, restarts, already, requeued):
    commands = {"srun": f"exit {code}", "scontrol": f'[[ $1 = show ]] && echo node0; echo "$@" >> {tmp_path}/log'}
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node0"}
    environment |= {name: value for name, value in (("RESTARTS", restarts), ("SLURM_RESTART_COUNT", already)) if value}
    done = subprocess.run(["bash", ROOT / "launch" / "slurm.sbatch", "true"], env=environment, capture_output=True)
    assert done.returncode == code, done.stderr
    assert ("requeue 7" in (tmp_path / "log").read_text().splitlines()) == requeued
