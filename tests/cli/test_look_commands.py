"""The commands that look at runs: report, runs."""

import json

import pytest


def test_report_and_runs_of_a_trained_run(lmjax, workspace, trained):
    assert trained.code == 0, trained.message
    run = workspace / "tiny"
    report = lmjax("report", run, "--output", workspace / "page.html")
    assert report.code == 0 and report.out.strip() == str(workspace / "page.html")
    assert "finished" in (workspace / "page.html").read_text()
    listed = lmjax("runs", workspace, "--json")
    (row,) = [json.loads(line) for line in listed.out.splitlines()]
    assert (row["folder"], row["state"], row["step"], row["objective"]) == (str(run), "finished", 4, "CausalLM")
    assert row["valid_loss"] > 0 and row["bits_per_byte"] > 0
    table = lmjax("runs", workspace)
    assert table.code == 0 and "tiny" in table.out and "4/4" in table.out and f"{row['train_loss']:.4f}" in table.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report",), "name at least one run folder"),
        (("report", "{}/text"), "text is not the folder of a run that has begun"),
        (("runs", "{}/text"), "there is no run in"),
        (("runs", "{}/nowhere"), "nowhere is not a folder"),
        (("train", "{}/tiny.py", "--tracker", "Neptune"), "there is no such class; there are MLflow, NoTracker"),
        (("train", "{}/tiny.py", "--train.gradient-noise", "True"), "set train.microbatches to 2 or more"),
    ],
)
def test_bad_input_is_one_message(lmjax, workspace, words, message):
    result = lmjax(*(word.format(workspace) for word in words))
    assert result.code == 2 and message in result.message and "Traceback" not in result.err
