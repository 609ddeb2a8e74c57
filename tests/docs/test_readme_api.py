"""The README's lines of Python, run as they stand on runs that were not trained."""

import pathlib
import re

from untrained import untrained

from lmjax.objectives import Contrastive

ROOT = pathlib.Path(__file__).parents[2]


def test_the_lines_run_as_they_stand(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "lmjax.runs" in block]
    assert len(block.splitlines()) <= 10
    untrained(folder=tmp_path / "runs" / "stdlib_demo")
    untrained(Contrastive(), folder=tmp_path / "runs" / "contrastive_small")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "exported" / "model.safetensors").exists()
    assert len(capsys.readouterr().out.splitlines()) >= 5
