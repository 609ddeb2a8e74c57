"""Folders may be called whatever a file system allows, in every command that writes or reads them."""

import json

import pytest

NAME = "s3:[1e-3]* ?{a,b}\\n\n'\"$x %~é"


@pytest.mark.long
def test_a_strange_name_for_every_folder(lmjax, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = f"{NAME}/run"
    options = ["--folder", run, "--data.prepared", f"{NAME}/data", "--train.steps", 2, "--train.profile", 1, 1]
    for steps in (2, 3):
        options[5] = steps
        done = lmjax("train", workspace / "tiny.py", *options, "--train.tensorboard", True)
        assert done.code == 0, done.err
    assert "continuing after step 2" in done.out
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    assert {p.name for p in (tmp_path / run / "checkpoints").iterdir()} == {"2", "3"}
    assert len(list((tmp_path / run / "tensorboard").iterdir())) == 2
    assert any((tmp_path / run / "profile").rglob("*.pb"))
    evaluated = lmjax("evaluate", run)
    assert evaluated.code == 0 and json.loads(evaluated.out.splitlines()[-1])["step"] == 3
    exported = lmjax("export", run, f"{NAME}/hf")
    assert exported.code == 0, exported.err
    again = lmjax("import", f"{NAME}/hf", f"{NAME}/again")
    assert again.code == 0, again.err
    assert lmjax("sample", f"{NAME}/again", "--max-new-tokens", 2).code == 0


@pytest.mark.parametrize("name", ["x" * 256, "x/" * 2000, "a\0b", "\udcff"])
def test_a_name_no_file_system_takes_is_refused_at_once(lmjax, workspace, tmp_path, name):
    done = lmjax("train", workspace / "tiny.py", "--folder", f"{tmp_path}/{name}", "--data.prepared", tmp_path / "data")
    assert done.code == 2 and "choose another --folder" in done.err
    assert not list(tmp_path.iterdir())
