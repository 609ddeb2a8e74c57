"""A file is replaced as a whole, in an order that outlives a loss of power, and an error leaves the old one."""

import errno
import os
import stat

import pytest

from lmjax.atomic_files import is_partial, partial_path, replacing, write_file, write_json
from lmjax.naming import naming, naming_file


def test_content_is_on_the_disk_before_the_name_and_the_folder_after(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def recorded_replace(source, target):
        done.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_json(tmp_path / "a.json", {"ä": 1}, ensure_ascii=False)
    assert done == ["file", "name", "folder"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "ä": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_content_and_no_other_file_and_names_the_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.json"
    write_file(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails != "write":
        monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left") as raised, replacing(path) as file:
        file.write(b"half of the new")
        if fails == "write":
            full()
    assert raised.value.filename == str(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_is_not_there_is_named_as_the_file_was(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        write_file(tmp_path / "none" / "a.json", b"")
    assert raised.value.filename == str(tmp_path / "none" / "a.json")


def test_what_a_killed_process_left_is_known_by_its_name(tmp_path):
    assert is_partial(partial_path(tmp_path / "config.json").name)
    assert not is_partial("config.json") and not is_partial(".lmjax-lock")


def test_a_file_system_that_does_not_force_folders_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def unable(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", unable)
    write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_errors_say_where_they_arose():
    with pytest.raises(ValueError, match=r"^config.json: steps=0$"), naming("config.json"):
        raise ValueError("steps=0")
    with pytest.raises(OSError, match="full") as raised, naming_file("runs/x"):
        raise OSError(errno.ENOSPC, "full")
    assert raised.value.filename == "runs/x"
    with pytest.raises(OSError, match="full") as raised, naming_file("runs/x"):
        raise OSError(errno.ENOSPC, "full", "runs/x/metrics.jsonl")
    assert raised.value.filename == "runs/x/metrics.jsonl"
