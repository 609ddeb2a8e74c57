"""The page on data: raw files are curated, prepared, inspected and trained on by its own code and commands."""

import pathlib
import re
import shlex

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("rensa")
pytest.importorskip("spacy")
pytest.importorskip("pyarrow")

from lmjax.cli.main import _run
from lmjax.curate.rule import load_function

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "data.md").read_text()


@pytest.mark.long
@pytest.mark.run
def test_the_commands_from_raw_files_to_a_model_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMJAX_CACHE", "0")
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        if name := re.match(r"# (\S+\.py)\n", code):
            pathlib.Path(name[1]).write_text(code)
    exec(compile(pathlib.Path("make_raw.py").read_text(), "make_raw.py", "exec"), {})
    section = PAGE[PAGE.index("## From raw files") : PAGE.index("## Curate")]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    lmjax ")]
    assert [command.split()[1] for command in commands] == ["curate", "prepare", "inspect", "train"]
    printed = {}
    for command in commands:
        _run(shlex.split(command)[1:] + (["--workers", "1"] if "curate" in command else []))
        printed[command.split()[1]] = capsys.readouterr().out
    assert re.search(r"Decontaminate: 13 words of an evaluation text \(1\)", printed["curate"])
    copies = re.search(r"ExactDuplicates \(simplified\): a copy of an earlier document \((\d+)\)", printed["curate"])
    assert copies is not None and int(copies[1]) > 5
    assert "wiki: data/stages/wiki" in printed["prepare"] and "rows of 64 tokens" in printed["inspect"]
    assert pathlib.Path("clean/report.html").exists() and "valid" in printed["train"]
    assert load_function("safety.py:safe")("strong poison here", {}) == "the word poison"
    # A field on the command line; the folder is another one, for the rules are.
    _run(shlex.split("curate clean.py --folder other --rules.1.min-words 90 --workers 1"))
    shorter, longer = (
        int(re.search(r"  all +[\d,]+ +([\d,]+)", text)[1].replace(",", ""))
        for text in (capsys.readouterr().out, printed["curate"])
    )
    assert 0 < shorter < longer
