import json
import math
import sys

import numpy as np
import pytest

from lmjax.analysis.plots import column, plot_loss, smooth


def make_run(folder, lines):
    folder.mkdir()
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


def test_a_run_without_losses_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path / "run", [{"step": 0, "learning_rate": 1.0}])
    with pytest.raises(ValueError, match=r"no loss in .*run"):
        plot_loss([run], tmp_path / "loss.png")
    with pytest.raises(FileNotFoundError):
        plot_loss([tmp_path / "absent"], tmp_path / "loss.png")


def test_missing_matplotlib_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ValueError, match=r'pip install "lmjax\[plot\]"'):
        plot_loss([tmp_path], tmp_path / "loss.png")
