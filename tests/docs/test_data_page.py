"""The page on data: its corpus is made, prepared, inspected and planned by its own code and commands."""

import pathlib
import re
import shlex

import pytest

from lmjax.cli.main import _run
from lmjax.cli.recipe import parse_recipe
from lmjax.train.epochs import epochs_at
from lmjax.train.plan import make_plan

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "data.md").read_text()


def test_the_commands_of_the_page_run_as_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMJAX_CACHE", "0")
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        if name := re.match(r"# (\S+\.py)\n", code):
            pathlib.Path(name[1]).write_text(code)
    exec(compile(pathlib.Path("make_corpus.py").read_text(), "make_corpus.py", "exec"), {})
    commands = [line.strip() for line in PAGE.splitlines() if re.match(r"    lmjax .*(mixture.py|data/mix)", line)]
    assert len(commands) == 4 and commands[-1] == "lmjax train mixture.py"
    for command in commands[:-1]:
        _run(shlex.split(command)[1:])
    printed = capsys.readouterr().out
    for words in ("math: data/mix/math", "rows of 64 tokens", "duplicates: ", "bytes a token"):
        assert words in printed
    plan = make_plan(parse_recipe("train", ["mixture.py"]))
    read = epochs_at(plan.rows, plan.curriculum, 60)
    assert 0 < read["math"] < 4 and epochs_at(plan.rows, plan.curriculum, 40)["math"] == 0
