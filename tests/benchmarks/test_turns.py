"""Processes that take turns: their answers, and what becomes of one that fails."""

import sys

import pytest
import steps
from turns import Side, SideError, ratio, take_turns

SCRIPT = """
import time, turns
def work(request):
    if request == "refuse":
        raise ValueError("no such shape\\nmore")
    if request == "end":
        raise SystemExit("it is over")
    time.sleep(request)
print("a line of a library", flush=True)
turns.serve(work, facts={"versions": "1"}, peak=lambda: 5)
"""


def side(script=SCRIPT):
    return Side([sys.executable, "-c", script], {"PYTHONPATH": str(steps.FOLDER)})


def test_a_side_tells_its_facts_and_takes_its_turns_also_after_it_refused_one():
    one = side().wait()
    assert one.facts == {"versions": "1"}
    with pytest.raises(SideError, match="^ValueError: no such shape$") as refused:
        one.seconds("refuse")
    assert refused.value.side is one
    times = take_turns({"a": one}, 0.02, rounds=2)
    assert len(times["a"]) == 2 and all(0.02 <= value < 2 for value in times["a"])
    assert one.peak_bytes == 5
    with pytest.raises(SideError, match="it is over"):
        one.seconds("end")
    one.close()


def test_a_side_that_cannot_start_says_why():
    with pytest.raises(SideError, match="^ModuleNotFoundError: No module named 'no_such_library'$"):
        side("import no_such_library").wait()


def test_the_ratio_is_the_median_of_those_within_a_round():
    # A slow second round slows both sides.
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0
