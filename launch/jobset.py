#!/usr/bin/env python3
"""Renders a Kubernetes JobSet: one run over several nodes of GPUs, or over a slice of TPUs on GKE.

    python launch/jobset.py --name gpt2 --image IMAGE --nodes 4 --gpus 8 --claim runs -- \\
        lmjax train gpt2_124m --folder /runs/gpt2 | kubectl apply -f -
    python launch/jobset.py --name gpt2 --image IMAGE --tpu tpu-v5-lite-podslice --topology 4x4 --nodes 4 --gpus 4 ...

The output is JSON, which kubectl reads as it reads YAML. The run folder has to be on the persistent volume claim
(``--claim``), which all pods mount at ``/runs``. A fault starts all pods again, so that they go on from the last
checkpoint; exit code 2, a mistake in the configuration, ends the job. Needs nothing but Python, and in the cluster the
JobSet controller (https://jobset.sigs.k8s.io).
"""

import argparse
import json
import re
import sys
from typing import Any

PORT = 1234
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; everything after ``--`` is the command of each pod."""
    parser = argparse.ArgumentParser(description="Renders a Kubernetes JobSet for one run over several nodes.")
    parser.add_argument("--name", required=True, help="name of the JobSet")
    parser.add_argument("--image", required=True, help="image with lmjax, see docker/")
    parser.add_argument("--nodes", type=int, default=1, help="pods, one on each node (1)")
    parser.add_argument("--chips", "--gpus", type=int, default=8, help="GPUs or TPU chips of each node (8)")
    parser.add_argument("--tpu", help="the accelerator of GKE, such as tpu-v5-lite-podslice; GPUs when unset")
    parser.add_argument("--topology", help="with --tpu: the slice, such as 4x4; its chips are nodes x chips")
    parser.add_argument("--claim", help="persistent volume claim to mount at /runs")
    parser.add_argument("--restarts", type=int, default=100, help="times to start all pods again after a fault (100)")
    parser.add_argument("--grace", type=int, default=300, help="seconds from SIGTERM to SIGKILL, for the save (300)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command, after --")
    options = parser.parse_args(arguments)
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not options.command:
        parser.error("say what to run after --, as in: jobset.py --name NAME --image IMAGE -- lmjax train RECIPE")
    # The name of a pod, NAME-workers-0-INDEX-xxxxx, is a host name, which has at most 63 characters.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", options.name):
        parser.error(f"--name {options.name}: use up to 40 small letters, digits and dashes, a letter first")
    for name in ("nodes", "chips"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if (options.tpu is None) != (options.topology is None):
        parser.error("--tpu and --topology go together")
    if options.topology is not None:
        chips = 1
        for size in options.topology.split("x"):
            chips *= int(size) if size.isdigit() else 0
        if chips != options.nodes * options.chips:
            parser.error(f"--topology {options.topology} has {chips} chips, not {options.nodes} x {options.chips}")
    return options


def jobset(options: argparse.Namespace) -> dict[str, Any]:
    """The manifest."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": options.name},
        "spec": {
            # Pods find each other by name: NAME-workers-0-INDEX.NAME.
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": options.restarts,
                "rules": [
                    {
                        "name": "configuration",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": _job(options)}}],
        },
    }


def _job(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "parallelism": options.nodes,
        "completions": options.nodes,
        "completionMode": "Indexed",
        # A pod alone cannot join a run that has begun: one failure ends the job, and JobSet starts all of it again.
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "lmjax", "operator": "In", "values": [2]},
                }
            ]
        },
        "template": {"spec": _pod(options)},
    }


def _pod(options: argparse.Namespace) -> dict[str, Any]:
    resource = "nvidia.com/gpu" if options.tpu is None else "google.com/tpu"
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        # What a model's folder or a recipe may do stays within the pod.
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "lmjax",
                "image": options.image,
                "command": options.command,
                "env": _environment(options),
                "resources": {"limits": {resource: str(options.chips)}},
                # NCCL needs more shared memory than the 64 MB of a pod.
                "volumeMounts": [{"name": "memory", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
    }
    if options.tpu is not None:
        pod["nodeSelector"] = {
            "cloud.google.com/gke-tpu-accelerator": options.tpu,
            "cloud.google.com/gke-tpu-topology": options.topology,
        }
    if options.claim is not None:
        pod["volumes"].append({"name": "runs", "persistentVolumeClaim": {"claimName": options.claim}})
        pod["containers"][0]["volumeMounts"].append({"name": "runs", "mountPath": "/runs"})
    return pod


def _environment(options: argparse.Namespace) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = [
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        {"name": "LMJAX_GRACE_SECONDS", "value": str(options.grace)},
    ]
    if options.nodes > 1:
        coordinator = f"{options.name}-workers-0-0.{options.name}:{PORT}"
        variables += [
            {"name": "LMJAX_COORDINATOR", "value": coordinator},
            {"name": "LMJAX_NUM_PROCESSES", "value": str(options.nodes)},
            {"name": "LMJAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        ]
    return variables


if __name__ == "__main__":
    json.dump(jobset(parse_arguments()), sys.stdout, indent=2)
    print()
