import html
import json
import math
import pathlib
import re
import sys

import numpy as np
import pytest

from lmjax.analysis.picture import save_picture
from lmjax.analysis.plots import column, plot_loss, run_names, smooth


def make_run(folder, lines):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_column_skips_the_steps_that_lack_it():
    steps, values = column([{"step": 0, "a": 1.0}, {"step": 1}, {"step": 2, "a": 3.0}], "a")
    assert steps.tolist() == [0, 2] and values.tolist() == [1, 3]
    assert column([], "a")[0].shape == (0,)


def test_smooth_is_the_unbiased_moving_average():
    # alpha = 1/2: (v0), (v1 + v0/2) / 1.5, (v2 + v1/2 + v0/4) / 1.75
    assert np.allclose(smooth(np.array([4.0, 1.0, 2.0]), 3), [4, 3 / 1.5, 3.5 / 1.75])
    assert np.allclose(smooth(np.full(5, 2.5), 7), 2.5)
    assert np.allclose(smooth(np.array([1.0, 5.0]), 1), [1, 5])
    assert np.allclose(smooth(np.array([2.0, math.nan, 2.0]), 3), 2)


def test_plot_of_several_runs_is_an_image_of_both(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [{"step": i, "train/loss": 3 - i / 20, "learning_rate": 1e-3} for i in range(20)]
    lines[10]["valid/loss"] = 2.6
    lines[12]["train/loss"] = None
    runs = [make_run(tmp_path / name, lines) for name in ("first", "second")]
    one = plot_loss(runs[:1], tmp_path / "pictures" / "one.svg").read_text()
    both = plot_loss(runs, tmp_path / "both.svg").read_text()
    assert both.count("<path") > one.count("<path")
    assert plot_loss(runs, tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def texts(path):
    """What an svg writes, in order: matplotlib leaves each text as a comment before its glyphs."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", path.read_text())]


def by_step(parts, number=60):
    lines = [{"step": 0, **{f"valid/{part}/loss": 5.0 for part in parts}}]
    for step in range(1, number):
        lines.append({"step": step, "learning_rate": 1e-3, f"train/{parts[step % len(parts)]}/loss": 5 - step / 20})
    return lines


def test_a_mixture_by_step_has_a_curve_of_each_part(tmp_path):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path / "mixture", by_step(["causal", "masked"]))
    said = texts(plot_loss([run], tmp_path / "loss.svg"))
    for part in ("causal", "masked"):
        assert f"training, {part}" in said and f"validation, {part} (last 5.000)" in said
    other = make_run(tmp_path / "plain", [{"step": step, "train/loss": 3.0} for step in range(9)])
    said = texts(plot_loss([run, other], tmp_path / "both.svg"))
    assert {"mixture: training, causal", "mixture: training, masked", "plain: training"} <= set(said)


def test_runs_of_one_name_are_told_apart_by_the_shortest_end_of_their_paths(tmp_path):
    folders = [tmp_path / name for name in ("a/run", "b/run", "c/other", "x/a/deep", "y/a/deep")]
    assert run_names(folders) == ["a/run", "b/run", "other", "x/a/deep", "y/a/deep"]
    assert run_names([tmp_path / "run", tmp_path / "sub" / "run"])[1] == "sub/run"
    pytest.importorskip("matplotlib")
    runs = [make_run(folder, [{"step": step, "train/loss": 3.0} for step in range(3)]) for folder in folders[:2]]
    said = texts(plot_loss([*runs, runs[0].parent / "../a/run"], tmp_path / "same.svg"))
    assert [text for text in said if "training" in text] == ["a/run: training", "b/run: training"]


@pytest.mark.parametrize("name", ["_hidden", "$x$", r"$\frac{$", "a_b^c", "tab\tnew\nline", "日本", "x" * 200, "%s{}"])
def test_a_name_is_drawn_as_it_is_written(name, tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    runs = [make_run(tmp_path / part, [{"step": 1, "train/loss": 3.0}]) for part in (name, "other")]
    said = texts(plot_loss(runs, tmp_path / "two.svg"))
    (shown,) = [text.removesuffix(": training") for text in said if "training" in text and "other" not in text]
    if len(name) < 50 and name.isprintable():
        assert shown == name
    else:
        assert shown[:3] == name[:3] and len(shown) < 60 and shown.isprintable()
    plot_loss(runs[:1], tmp_path / "one.png")
    # An object of an earlier test may be collected here and complain.
    assert not [said for said in recwarn if not issubclass(said.category, pytest.PytestWarning)]


def test_a_single_point_is_seen_and_numbers_that_are_none_are_passed_over(tmp_path):
    pytest.importorskip("matplotlib")
    line = {"step": 1, "train/loss": 3.0, "learning_rate": 1e-3}
    one = make_run(tmp_path / "one", [line])
    assert "<use" in plot_loss([one], tmp_path / "one.svg").read_text().split('id="line2d_1"')[-1]
    odd = [{"step": 2, "train/loss": None}, {"step": 3, "train/loss": "x"}, {"step": 4, "train/loss": math.inf}]
    read = [line, *({**o, "train/loss": math.nan if o["train/loss"] is None else o["train/loss"]} for o in odd)]
    values = column(read, "train/loss")[1]
    np.testing.assert_array_equal(values, [3.0, math.nan, math.nan])
    assert plot_loss([make_run(tmp_path / "odd", [line, *odd])], tmp_path / "odd.png").exists()
    never = make_run(tmp_path / "never", [{"step": 1, "train/loss": None, "valid/loss": None}])
    assert plot_loss([never], tmp_path / "never.png").exists()


def test_many_runs_have_colours_of_their_own_and_a_legend_beside(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [{"step": step, "train/loss": 3.0, "valid/loss": 3.0} for step in range(4)]
    runs = [make_run(tmp_path / f"run{number}", lines) for number in range(12)]
    svg = plot_loss(runs, tmp_path / "many.svg").read_text()
    wide, narrow = (
        float(re.search(r'width="([\d.]+)pt"', text)[1])
        for text in (svg, plot_loss(runs[:2], tmp_path / "two.svg").read_text())
    )
    assert wide > narrow
    strokes = set(re.findall(r"stroke: (#\w{6}); stroke-width: 1.8", svg))
    assert len(strokes) == 12


def test_a_run_without_losses_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path / "run", [{"step": 0, "learning_rate": 1.0}])
    with pytest.raises(ValueError, match=r"no loss in .*run"):
        plot_loss([run], tmp_path / "loss.png")
    with pytest.raises(FileNotFoundError):
        plot_loss([tmp_path / "absent"], tmp_path / "loss.png")


def folder_there(tmp_path):
    (tmp_path / "loss.png").mkdir()
    return tmp_path / "loss.png"


def file_above(tmp_path):
    (tmp_path / "file").write_text("kept")
    return tmp_path / "file" / "loss.png"


@pytest.mark.parametrize("place", [folder_there, file_above, lambda _: pathlib.Path("/proc/none/loss.png")])
def test_a_picture_that_cannot_be_written_is_one_message(tmp_path, place):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    output = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"picture.*{output}.*name another file") as caught:
        save_picture(figure, output)
    assert "Errno" not in str(caught.value) and "unfinished" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_matplotlib_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ValueError, match=r'pip install "lmjax\[plot\]"'):
        plot_loss([tmp_path], tmp_path / "loss.png")
