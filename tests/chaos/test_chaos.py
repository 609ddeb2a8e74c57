"""Runs under SIGKILL, SIGTERM and damaged files (`make chaos`; the figures are in docs/reliability.md)."""

import collections
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from storm import Storm

from lmjax.models.parameters import named_leaves
from lmjax.runs import open as open_run

pytestmark = pytest.mark.chaos


def params_of(place: pathlib.Path) -> dict[str, np.ndarray]:
    return named_leaves(jax.device_get(open_run(place / "run").params))


def check_like_the_calm_run(storm: Storm, place: pathlib.Path) -> None:
    assert storm.numbers_of(place) == storm.numbers
    there, here = params_of(place), params_of(storm.calm)
    assert there.keys() == here.keys() and all(np.array_equal(there[name], here[name]) for name in here)


def figures(title: str, counts: collections.Counter) -> None:
    print(f"\n{title}: " + ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))


def test_sigkill_loses_no_step_before_the_last_finished_save(storm, request):
    left, counts, place = request.config.getoption("--kills"), collections.Counter(), None
    while left:
        place = place or storm.new_place()
        process = storm.begin(place)
        kind = storm.wait_for_moment(place, process)
        storm.send(process, signal.SIGKILL)
        code = storm.end(process)
        if code == 0:  # It was done before the signal came.
            check_like_the_calm_run(storm, place)
            shutil.rmtree(place)
            place = None
            continue
        assert code == -signal.SIGKILL, storm.output(place)
        left -= 1
        counts[f"at {kind}"] += 1
        saved = storm.finished_save(place)
        before = len(storm.output(place))
        # The start after it, which is killed as well in the next round unless it is the last.
        if left == 0 or storm.random.random() < 0.5:
            assert storm.finish(place) == 0, storm.output(place)
            gone_on = re.search(r"continuing after step (\d+) of", storm.output(place)[before:])
            assert (int(gone_on[1]) if gone_on else 0) >= saved, storm.output(place)[before:]
            check_like_the_calm_run(storm, place)
            counts["runs finished, bit-equal"] += 1
            shutil.rmtree(place)
            place = None
    figures("SIGKILL", counts)


def test_sigterm_ends_cleanly_at_any_moment(storm, request):
    counts: collections.Counter = collections.Counter()
    for _ in range(request.config.getoption("--signals")):
        place = storm.new_place()
        process = storm.begin(place)
        kind = storm.wait_for_moment(place, process)
        storm.send(process, signal.SIGTERM)
        code = storm.end(process)
        output = storm.output(place)
        assert code in (0, 143) and "Traceback" not in output, (kind, code, output)
        assert code == 0 or re.search(r"^SIGTERM: ended; ", output, re.M), output
        counts[f"at {kind}: code {code}"] += 1
        assert storm.finish(place) == 0, storm.output(place)
        check_like_the_calm_run(storm, place)
        shutil.rmtree(place)
    figures("SIGTERM", counts)


def damage(path: pathlib.Path, random) -> str:
    """Flips a bit of a file, cuts it or deletes it, and returns what was done."""
    content = bytearray(path.read_bytes())
    kind = random.choice(("flip", "cut", "deletion"))
    if kind == "flip" and content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
        return "bit flip"
    if kind == "cut" and content:
        path.write_bytes(content[: random.randrange(len(content))])
        return "truncation"
    path.unlink()
    return "deletion"


def test_damaged_files_are_found_or_harmless(storm, request):
    """Each run goes on for two steps from a copy with one damaged file."""
    goal = storm.copy_of(storm.calm)
    longer = ("--train.steps", "26")
    assert storm.finish(goal, *longer) == 0, storm.output(goal)
    expected, counts = storm.numbers_of(goal), collections.Counter()
    for _ in range(request.config.getoption("--damages")):
        place = storm.copy_of(storm.calm)
        what = storm.random.choice(("run/checkpoints", "data", "run/tokenizer", "run/config.json", "run/record.json"))
        files = sorted(p for p in [place / what, *(place / what).rglob("*")] if p.is_file())
        path = storm.random.choice(files)
        done = f"{damage(path, storm.random)} in {what}"
        before = len(storm.output(place))
        code = storm.finish(place, *longer)
        output = storm.output(place)[before:]
        assert "Traceback" not in output and "unexpected" not in output, (str(path), done, output)
        if code == 0:
            assert storm.numbers_of(place) == expected, (str(path), done, output)
            seen = re.search(r"damaged|set aside|not verified|preparing|prepared", output) is not None
            counts[f"{done}: {'found and repaired' if seen else 'harmless'}"] += 1
        else:
            assert code in (1, 2) and "error: " in output, (str(path), done, code, output)
            counts[f"{done}: found, refused"] += 1
        shutil.rmtree(place)
    figures("damage", counts)
