"""Start-up of a run of several processes: it finds the peers, joins them, and checks that none is missing.

One program runs in every process; ``jax.distributed`` makes their devices one machine. The addresses of the peers
come from the configuration or from the launcher: ``launch/local.py`` and ``launch/tpu_pod.sh`` (the ``LMJAX_*``
variables below), Slurm, Open MPI, a TPU pod or a JobSet.
"""

import atexit
import collections
import contextlib
import dataclasses
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import NoReturn

import jax
import numpy as np

from lmjax.parallel.peers import Hub, Spoke, warn_not_watched

COORDINATOR_VARIABLE = "LMJAX_COORDINATOR"
NUM_PROCESSES_VARIABLE = "LMJAX_NUM_PROCESSES"
PROCESS_ID_VARIABLE = "LMJAX_PROCESS_ID"
SIGNS_VARIABLE = "LMJAX_SIGNS"
"""Names a folder of the launcher, see :func:`tell_launcher`."""
PLACE_BYTES = 512
"""The longest text in which process 0 says where it listens."""
BARRIER_SECONDS = 7 * 24 * 3600


class DistributedError(RuntimeError):
    """The processes of a run did not find each other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """The other processes of a run; under a known launcher all fields are found automatically."""

    coordinator: str | None = None
    """host:port of process 0; found automatically under Slurm, Open MPI, TPU pods and launch/."""
    num_processes: int | None = None
    """Number of processes of the run."""
    process_id: int | None = None
    """Number of this process, from 0."""
    expected_processes: int | None = None
    """Refuse to start with another number of processes."""
    expected_devices: int | None = None
    """Refuse to start with another number of devices, over all processes."""
    initialization_timeout: int = 300
    """Seconds to wait for every process to come up."""

    def __post_init__(self):
        for name in ("num_processes", "expected_processes", "expected_devices", "initialization_timeout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"distributed.{name}={value}: must be at least 1")
        if self.coordinator is not None and not re.fullmatch(r".+:\d+", self.coordinator):
            raise ValueError(f"distributed.coordinator={self.coordinator!r}: write it as host:port")
        if self.process_id is not None and not 0 <= self.process_id < (self.num_processes or sys.maxsize):
            raise ValueError(
                f"distributed.process_id={self.process_id}: must be from 0 to distributed.num_processes - 1"
            )


def find_peers(config: DistributedConfig, environment: Mapping[str, str]) -> DistributedConfig:
    """Returns the configuration, completed by the environment variables of ``launch/``; fields that are given stay.

    Raises:
      ValueError: a variable is not a number, or the fields it fills do not go together.
    """

    def number(variable: str) -> int | None:
        text = environment.get(variable)
        if text is not None and not text.isdigit():
            raise ValueError(f"environment variable {variable}={text!r}: must be a whole number")
        return None if text is None else int(text)

    return dataclasses.replace(
        config,
        coordinator=config.coordinator or environment.get(COORDINATOR_VARIABLE),
        num_processes=config.num_processes or number(NUM_PROCESSES_VARIABLE),
        process_id=config.process_id if config.process_id is not None else number(PROCESS_ID_VARIABLE),
    )


def is_launched(config: DistributedConfig, environment: Mapping[str, str]) -> bool:
    """Returns whether this is one of several processes, by the configuration or the variables of a known launcher."""
    counts = (
        config.num_processes or 1,
        config.expected_processes or 1,
        int(environment.get("SLURM_NTASKS", "1")) if "SLURM_STEP_NODELIST" in environment else 1,
        int(environment.get("OMPI_COMM_WORLD_SIZE", "1")),
        len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")),
        int(environment.get("MEGASCALE_NUM_SLICES", "1")),
    )
    return config.coordinator is not None or max(counts) > 1


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """Returns the GPUs of this process if jax's own choice would be wrong, else ``None``.

    Under Slurm jax uses one GPU for each task. With a single task on each node the other GPUs of the node would be
    idle.
    """
    one_task_a_node = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return list(range(len(visible))) if one_task_a_node and len(visible) > 1 else None


def start(config: DistributedConfig | None = None) -> None:
    """Joins the other processes and prints what was found; call it before the first use of jax.

    A single process joins nothing. After this call an uncaught exception ends its process at once, and a process
    that dies ends the others within seconds, see :mod:`lmjax.parallel.peers`.

    Raises:
      ValueError: processes or devices are not as many as expected.
      DistributedError: the peers cannot be found or joined. (If some do not start in time, every process that did
        start says so and exits with 1.)
    """
    config = find_peers(config or DistributedConfig(), os.environ)
    tell_launcher("came", config, os.environ)
    if is_launched(config, os.environ) and not jax.distributed.is_initialized():
        _join(config)
        sys.excepthook = _print_and_leave
        _watch_peers(config)
    _check("processes", jax.process_count(), config.expected_processes)
    _check("devices", jax.device_count(), config.expected_devices)
    # The line and its end in one write: gloo's threads print, too, and `print` leaves them a gap.
    sys.stdout.write(f"{describe_processes()}\n")
    sys.stdout.flush()
    tell_launcher("joined", config, os.environ)


def tell_launcher(sign: str, config: DistributedConfig, environment: Mapping[str, str]) -> None:
    """Leaves a sign in the folder that the launcher names, so that it knows which processes keep others waiting.

    Args:
      sign: ``"came"``, before this process looks for the others, or ``"joined"``, when it has found them all.
      config: says which process this is.
      environment: has the name of the folder, if the launcher wants signs.
    """
    folder = environment.get(SIGNS_VARIABLE)
    if folder is not None and config.process_id is not None:
        with contextlib.suppress(OSError):
            open(os.path.join(folder, f"{sign}.{config.process_id}"), "w").close()


def _join(config: DistributedConfig) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # At its own timeout jax aborts the process with a C++ stack and no advice.
    alarm = threading.Timer(config.initialization_timeout, _give_up_waiting, (config,))
    alarm.daemon = True
    alarm.start()
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            coordinator_address=config.coordinator,
            num_processes=config.num_processes,
            process_id=config.process_id,
            local_device_ids=local_device_ids(os.environ),
            initialization_timeout=config.initialization_timeout + 60,
            coordinator_bind_address=bind_address(config.coordinator),
        )
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DistributedError(_startup_message(config, reason)) from error
    finally:
        alarm.cancel()
    if in_main_thread:
        # jax has installed its own SIGTERM handler, with which a process would not end before the training loop
        # handles signals.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if on_sigterm is None else on_sigterm)


def _watch_peers(config: DistributedConfig) -> None:
    """Makes this process end when another one dies, see :mod:`lmjax.parallel.peers`."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    hub, place = None, b""
    if is_primary():
        own = bind_address(config.coordinator)
        host = "" if own is None else own.rpartition(":")[0].strip("[]")
        try:
            hub = Hub(host, num_processes=jax.process_count())
            place = b"%s %d %s" % ((host or socket.gethostname()).encode(), hub.port, hub.token.hex().encode())
        except OSError as error:
            warn_not_watched(error)
    told = multihost_utils.broadcast_one_to_all(np.frombuffer(place.ljust(PLACE_BYTES), np.uint8))
    words = bytes(np.asarray(told, np.uint8)).split()
    try:
        if hub is None and words:
            host, port, token = (word.decode() for word in words)
            atexit.register(Spoke(host, int(port), bytes.fromhex(token), process=jax.process_index()).close)
    except OSError as error:
        warn_not_watched(error)
    if hub is not None:
        atexit.register(hub.close)


def bind_address(coordinator: str | None) -> str | None:
    """Returns the address on which process 0 listens: that of the coordinator, and no other of the machine.

    The coordinator has no password, so it must not listen on networks in which the run has no peers. Where the
    coordinator's address is not one of this machine (process 0 is behind a translation of addresses, or this is another
    process), it returns None: jax then listens on all interfaces if this is process 0.

    Args:
      coordinator: ``host:port`` of process 0; None if jax finds it.
    """
    host, _, port = (coordinator or "").rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM) if host else []
    except OSError:
        return None
    for family, kind, protocol, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind((address[0], 0, *address[2:]))
            return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"
    return None


def _give_up_waiting(config: DistributedConfig) -> None:
    limit = f"distributed.initialization_timeout={config.initialization_timeout}"
    message = _startup_message(config, f"not all processes came up within {limit} seconds")
    print(f"error: {message}; the one that is absent says nothing", file=sys.stderr, flush=True)
    os._exit(1)


def _startup_message(config: DistributedConfig, reason: str) -> str:
    process = "?" if config.process_id is None else config.process_id
    return (
        f"distributed start-up of process {process} of {config.num_processes or '?'} failed: {reason}. "
        f"See that every process was launched and has the same distributed.num_processes and "
        f"distributed.coordinator ({config.coordinator or 'detected'})"
    )


def _check(what: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        remedy = "every process was launched" if what == "processes" else "every process sees its devices"
        raise ValueError(
            f"distributed.expected_{what}={expected}, but there are {found} {what}: {describe_processes()}. "
            f"See that {remedy}, or change distributed.expected_{what}"
        )


def describe_processes() -> str:
    """Returns one line with this process, its devices, all devices and their kinds."""
    kinds = collections.Counter(device.device_kind for device in jax.devices())
    kinds_text = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"process {jax.process_index()} of {jax.process_count()}: "
        f"{jax.local_device_count()} local of {jax.device_count()} devices ({kinds_text})"
    )


def is_primary() -> bool:
    """Returns whether this process prints, writes metrics and draws the progress bar."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has called this, however long the last one takes; a single process does not wait.

    A collective (``multihost_utils.sync_global_devices``) is not suitable for waiting: on CPU it fails if a peer is
    30 s late (measured), and a process that waits in it does not notice that a peer has ended.

    Args:
      name: the same in every process.

    Raises:
      DistributedError: a process has ended.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost

    try:
        multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * BARRIER_SECONDS)
    except RuntimeError as error:
        raise DistributedError(
            f"another process ended before all had come to {name!r}: its own message says why"
        ) from error


def leave(code: int) -> NoReturn:
    """Ends the process in the usual way, or at once if its peers would otherwise wait for a failing process.

    The usual way would wait (70 s, measured) for peers that are waiting for this process.
    """
    with contextlib.suppress(OSError):  # The reader of the output may be gone.
        sys.stdout.flush()
        sys.stderr.flush()
    if code != 0 and jax.distributed.is_initialized():
        os._exit(code)
    sys.exit(code)


def _print_and_leave(kind, error, trace) -> None:
    traceback.print_exception(kind, error, trace)
    leave(1)
