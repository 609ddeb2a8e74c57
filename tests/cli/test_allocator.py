"""The allocator's settings: on CPUs only, once, and never against the user."""

import os
import platform
import sys

import pytest

from lmjax.cli import allocator, main
from lmjax.cli.allocator import TUNABLES, wanted_tunables


@pytest.fixture(autouse=True)
def a_linux_machine_without_accelerators(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator, "_ACCELERATORS", ())


def test_training_on_a_cpu_keeps_its_memory(monkeypatch, tmp_path):
    settings = dict(part.split("=") for part in wanted_tunables({}).split(":"))
    assert settings == {
        "glibc.malloc.hugetlb": "1",
        "glibc.malloc.mmap_threshold": str(2**30),
        "glibc.malloc.trim_threshold": str(2**32),
    }
    (tmp_path / "gpu").touch()
    monkeypatch.setattr(allocator, "_ACCELERATORS", (str(tmp_path / "gpu"),))
    assert wanted_tunables({}) is None and wanted_tunables({"JAX_PLATFORMS": "cuda,cpu"}) is None
    assert wanted_tunables({"JAX_PLATFORMS": "cpu"}) is not None


@pytest.mark.parametrize(
    "environment",
    [{TUNABLES: "glibc.malloc.check=1"}, {TUNABLES: ""}, {"LMJAX_MALLOC": "0"}, {"LMJAX_MALLOC": "Off"}],
)
def test_the_users_own_choice_stands(environment):
    assert wanted_tunables(environment) is None


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("musl", "1.2"), ("", "")])
def test_other_libraries_are_left_alone(library, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    assert wanted_tunables({}) is None


def test_the_command_begins_again_as_it_was_and_only_once(monkeypatch):
    class BeganAgainError(Exception):
        """Stands for the process that replaces this one."""

    def begin(program, arguments, environment):
        raise BeganAgainError(program, arguments, environment)

    monkeypatch.setattr(os, "execve", begin)
    monkeypatch.delenv(TUNABLES, raising=False)
    monkeypatch.delenv("LMJAX_MALLOC", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "utf8", "/bin/lmjax", "train", "demo"])
    monkeypatch.setattr(sys, "argv", ["/bin/lmjax", "train", "demo"])
    with pytest.raises(BeganAgainError) as began:
        main.main()
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest", "-x"])
    allocator.begin_again_with_large_blocks()  # does not end this process
    program, arguments, environment = began.value.args
    assert (program, arguments) == (sys.executable, [sys.executable, "-X", "utf8", "/bin/lmjax", "train", "demo"])
    assert environment[TUNABLES] == wanted_tunables({}) and wanted_tunables(environment) is None
