"""The page on evaluating a run: its lines of Python run as they stand, and its options are those of the command."""

import dataclasses
import pathlib
import re

from untrained import untrained

from lmjax.cli.evaluate import EvaluateArguments

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "evaluate.md"


def test_the_lines_run_as_they_stand(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    untrained(folder=tmp_path / "runs" / "stdlib_demo")
    (tmp_path / "README.md").write_text("A short text.")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, PAGE.name, "exec"), {})
    assert capsys.readouterr().out.splitlines()[0].endswith(" 13")


def test_every_option_it_names_is_one():
    names = {field.name.replace("_", "-") for field in dataclasses.fields(EvaluateArguments)}
    assert set(re.findall(r"--([a-z][a-z-]+)", PAGE.read_text())) <= names
