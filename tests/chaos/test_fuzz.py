"""Random values for the fields of recipes, and random damage to every file that is read: never a traceback.

A case is a command of `lmjax`, called in this process. It must succeed or end with a message that we wrote: an error of
ours, not one of a library's that nobody caught. Each case follows from the seed and its number alone.
"""

import collections
import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import traceback

import pytest
from tiny_run import config, on_one_device, with_train, write_corpus

from lmjax.cli.errors import describe
from lmjax.cli.main import _run
from lmjax.train.config_file import flatten, to_json

pytestmark = pytest.mark.chaos

PACKAGE = os.sep + "lmjax" + os.sep
RECIPE = """
import dataclasses, pathlib, sys
sys.path.insert(0, {tests!r})
from tiny_run import config, with_train

def recipe():
    return with_train(config(pathlib.Path({folder!r})), steps=2, eval_every=0)
"""
VALUES = (
    *("", " ", "0", "-1", "1", "2", "3", "7", "64", "0.5", "-0.5", "1.5", "1e-9", "1e9", "1e400", "nan", "inf", "-inf"),
    *(
        "None",
        "none",
        "True",
        "False",
        "a",
        "..",
        "/",
        "\\",
        "é",
        "日本",
        "\x1b[31m",
        "a" * 300,
        "[]",
        "{}",
        "()",
        "1 2",
    ),
    *("a,b", "--", "-", "*", "99999999999999999999", "0x10", "1_000", "float32", "bfloat16", "causal", "bytes"),
    *("best_fit", "windows", "%s", "{0}", "~", "$HOME"),
)
FOREIGN = 3
"""How many errors of libraries are shown, if there are some."""


class Place:
    """A folder with a recipe and a run of it that is whole, to be copied and damaged."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        write_corpus(folder / "text")
        self.recipe = folder / "recipe.py"
        self.recipe.write_text(RECIPE.format(tests=str(pathlib.Path(__file__).parents[1]), folder=str(folder)))
        self.fields = [path for path in flatten(to_json(with_train(config(folder), steps=2))) if ".type" not in path]
        assert call("train", self.recipe) == "done"

    def copy(self, target: pathlib.Path) -> pathlib.Path:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder / "run", target / "run")
        shutil.copytree(self.folder / "data", target / "data")
        return target


def call(*arguments: object) -> str:
    """Runs a command; returns "done", "refused" or "fault", or the traceback of an error that nobody foresaw."""
    with on_one_device(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            _run([str(argument) for argument in arguments])
        except SystemExit as exit_:
            return "done" if exit_.code in (0, None) else "refused"
        except Exception as error:
            message, code = describe(error)
            ours = any(PACKAGE in frame.filename for frame in traceback.extract_tb(error.__traceback__)[-1:])
            if message.startswith("unexpected") or not (ours or isinstance(error, OSError)):
                return "".join(traceback.format_exception(error))[-1500:]
            return "refused" if code == 2 else "fault"
    return "done"


def damaged(path: pathlib.Path, chance: random.Random) -> str:
    """Damages a file in one of several ways, and says how."""
    content = path.read_bytes()
    ways = ["flip", "cut", "empty", "gone", "folder", "noise", "twice"]
    if path.suffix == ".json":
        ways += ["value"] * 7
    way = chance.choice(ways)
    if way == "flip" and content:
        place = chance.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :])
    elif way == "cut":
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif way == "empty":
        path.write_bytes(b"")
    elif way in ("gone", "folder"):
        path.unlink()
        if way == "folder":
            path.mkdir()
    elif way == "noise":
        path.write_bytes(chance.randbytes(chance.randrange(200)))
    elif way == "twice":
        path.write_bytes(content + content)
    elif way == "value":
        path.write_text(json.dumps(with_another_value(json.loads(content), chance)))
    return way


def with_another_value(value: object, chance: random.Random) -> object:
    """Returns JSON in which one value, somewhere, is another one, of any kind."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        if chance.random() < 0.1:
            return {key: inner for key, inner in value.items() if key != name}
        return value | {name: with_another_value(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], with_another_value(value[place], chance), *value[place + 1 :]]
    others = (None, True, -1, 0, 1, 2**70, 0.5, 1e300, "", "a", "../../etc", "é" * 100, [], {}, [[]], {"a": {}}, [None])
    return chance.choice(others)


def unforeseen(cases: int, seed: int, case) -> list[str]:
    """Runs cases, prints how they ended, and returns the first of those that ended by an error that nobody foresaw."""
    ends, shown = collections.Counter(), []
    for number in range(cases):
        what, end = case(random.Random(f"{seed} {number}"))
        ends[end if len(end) < 10 else "not foreseen"] += 1
        if len(end) >= 10:
            shown.append(f"case {number}: {what}\n{end}")
    print("\n" + ", ".join(f"{number} {end}" for end, number in sorted(ends.items())))
    return shown[:FOREIGN]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("fuzz"))


def test_fields_of_a_recipe(place, request, tmp_path):
    options = request.config.getoption

    def case(chance: random.Random) -> tuple[str, str]:
        fields = chance.choices(place.fields, k=chance.choice([1, 1, 2, 3]))
        overrides = [f"--{field.replace('_', '-')}={chance.choice(VALUES)}" for field in fields]
        command = chance.choice([["train", "--dry-run"], ["preview"], ["prepare"]])
        # Folders that the values name are made here.
        with contextlib.chdir(tmp_path):
            return f"{command} {overrides}", call(command[0], place.recipe, *command[1:], *overrides)

    assert unforeseen(options("--fuzz") // 2, options("--storm-seed"), case) == []


def test_files_that_are_read(place, request, tmp_path):
    options = request.config.getoption

    def case(chance: random.Random) -> tuple[str, str]:
        copy = place.copy(tmp_path / "copy")
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name != "loss.png")
        small = [path for path in files if path.suffix in (".json", ".jsonl")]
        path = chance.choice(small if chance.random() < 0.6 else files)
        way = damaged(path, chance)
        command = chance.choice(
            [
                ["runs", copy],
                ["report", copy / "run", "--output", copy / "report.html"],
                ["plot", copy / "run"],
                ["inspect", copy / "data"],
                ["train", place.recipe, "--folder", copy / "run", "--data.prepared", copy / "data", "--dry-run"],
                ["preview", place.recipe, "--data.prepared", copy / "data"],
                ["evaluate", copy / "run", "--batches", "1"],
                ["fill-mask", copy / "run", "--text", "alpha <mask> beta"],
            ]
        )
        return f"{path.relative_to(copy)} ({way}): {command[0]}", call(*command)

    assert unforeseen(options("--fuzz") // 2, options("--storm-seed"), case) == []
