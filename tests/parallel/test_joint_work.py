"""Tasks are done once, by whoever is there, and a worker that dies is named."""

import dataclasses
import os
import pathlib
import signal
import threading

import pytest

from lmjax.parallel.folder_lock import folder_lock
from lmjax.parallel.joint_work import WorkerDiedError, attempt, do_all, has_members, membership


@dataclasses.dataclass(frozen=True)
class Squares:
    """Writes the square of each item; one of them ends the process."""

    folder: pathlib.Path
    deadly: int = -1

    def is_done(self, number):
        return (self.folder / str(number)).exists()

    def claim(self, number):
        return self.folder / f"{number}.claim"

    def __call__(self, number, item, advance):
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(3)
        (self.folder / str(number)).write_text(str(item * item))
        advance(7)


def squares(folder):
    return {int(path.name): int(path.read_text()) for path in folder.iterdir() if path.name.isdecimal()}


def test_tasks_that_are_done_are_not_done_again(tmp_path):
    (tmp_path / "2").write_text("1")
    seen = []
    items = dict(enumerate(range(10, 14)))
    do_all(Squares(tmp_path), items, dict.fromkeys(items, 10), num_workers=1, progress=lambda *two: seen.append(two))
    assert squares(tmp_path) == {0: 100, 1: 121, 2: 1, 3: 169}
    assert seen[0] == (10, 40) and seen[-1] == (40, 40) and seen == sorted(seen)
    do_all(Squares(tmp_path, deadly=0), items, dict.fromkeys(items, 10), num_workers=1)


def test_a_task_of_another_process_is_left_to_it(tmp_path):
    work, amounts = Squares(tmp_path), []
    begun, end = threading.Event(), threading.Event()

    def holds():
        with folder_lock(work.claim(1), "is being worked on"):
            begun.set()
            end.wait(timeout=20)

    thread = threading.Thread(target=holds)
    thread.start()
    begun.wait(timeout=20)
    assert attempt(work, 1, 5, 10, amounts.append) is False and not squares(tmp_path)
    end.set()
    thread.join()
    assert attempt(work, 1, 5, 10, amounts.append) is True and squares(tmp_path) == {1: 25}
    assert attempt(work, 1, 6, 10, amounts.append) is True and squares(tmp_path) == {1: 25}
    assert amounts == [3, 7, 10]
    assert not work.claim(1).exists()


def test_members_are_seen_while_they_work(tmp_path):
    assert not has_members(tmp_path)
    with membership(tmp_path, "is being prepared"):
        assert has_members(tmp_path)
    assert not has_members(tmp_path)


@pytest.mark.processes
def test_a_worker_that_dies_is_named_and_loses_only_its_task(tmp_path):
    items = dict(enumerate(range(4)))
    with pytest.raises(WorkerDiedError, match=r"a working process died .*what is done stays done"):
        do_all(Squares(tmp_path, deadly=3), items, dict.fromkeys(items, 10), num_workers=2)
    do_all(Squares(tmp_path), items, dict.fromkeys(items, 10), num_workers=2)
    assert squares(tmp_path) == {0: 0, 1: 1, 2: 4, 3: 9}
