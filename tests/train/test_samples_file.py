"""The texts of a run: those of later steps are dropped when it goes on, and a torn line costs only itself."""

import json

from lmjax.train.metrics import MetricWriters
from lmjax.train.samples_file import SAMPLES_FILE, Sample, Written, append_samples, read_samples


def test_texts_of_steps_that_are_repeated_are_dropped(tmp_path):
    for step in (0, 2, 4):
        append_samples(tmp_path, step, "texts", [Written(prompt="a", text=f"line\n{step}\u2028")])
    assert read_samples(tmp_path)[2] == Sample(4, "texts", "a", "line\n4\u2028")
    with MetricWriters(tmp_path, first_step=3, tensorboard=False) as writers:
        writers.write_texts(4, "texts", [Written(prompt="a", text="again")])
    assert [(one.step, one.text[-5:]) for one in read_samples(tmp_path)[1:]] == [(2, "ne\n2\u2028"), (4, "again")]


def test_a_torn_line_and_what_is_no_text_are_passed_over(tmp_path):
    whole = {"step": 1, "evaluation": "e", "prompt": "", "text": "x"}
    lines = [json.dumps(whole), json.dumps(whole | {"text": 3}), "[" * 5000, "\xff", json.dumps(whole)[:20]]
    (tmp_path / SAMPLES_FILE).write_text("\n".join(lines), encoding="latin-1")
    assert read_samples(tmp_path) == [Sample(1, "e", "", "x")]
    append_samples(tmp_path, 2, "e", [Written(prompt="", text="y")])
    assert [one.text for one in read_samples(tmp_path)] == ["x", "y"]
