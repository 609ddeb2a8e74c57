"""The notebook of the first half hour: its cells run in order and show what the text says."""

import pathlib
import re

import matplotlib
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "first-half-hour.md"
STEPS = 12

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def shown():
    """The variables after the last cell, and what all cells printed; the run is a short one."""
    cells = re.findall(r"^```\{code-cell\} python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    source, number = re.subn(r"\bsteps=\d+", f"steps={STEPS}", "\n".join(cells))
    assert number == 1
    matplotlib.use("agg")
    variables: dict = {"__name__": "notebook"}
    printed: list[str] = []
    variables["print"] = lambda *values, sep=" ", **_: printed.append(sep.join(map(str, values)))
    exec(compile(source, str(PAGE), "exec"), variables)
    return variables, printed


def test_it_trains_and_the_loss_falls(shown):
    variables, printed = shown
    assert f"{STEPS} steps" in printed
    losses = [line["train/loss"] for line in variables["lines"]]
    assert losses[-1] < losses[0]


def test_it_masks_and_keeps_the_labels(shown):
    variables, _ = shown
    hidden = variables["labels"] != -100
    assert (variables["tokens"][hidden] == variables["labels"][hidden]).all()
    assert 0 < hidden.sum() < hidden.size


def test_it_samples_from_the_prompt(shown):
    _, printed = shown
    assert printed[-1].startswith("Beautiful ")
