"""Trackers against their own local backends, without a network; each test is skipped where the package is missing."""

import os
import sys

import pytest
import tiny_run

from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json, to_json
from lmjax.train.metrics import MetricWriters
from lmjax.train.plan import make_plan
from lmjax.train.trackers import MLflow, NoTracker, Trackio, WandB
from lmjax.train.trackers.tracker import kept_id

SETTINGS = {"train.steps": 4, "model.windows": [None], "data.path": "x" * 9000}


def write_twice(folder, tracker):
    """Two starts of a run; the second begins at a step that the first has written, as after a kill."""
    for first, last in ((0, 3), (2, 5)):
        with MetricWriters(folder, first_step=first, tensorboard=False, tracker=tracker, settings=SETTINGS) as writers:
            for step in range(first, last):
                writers.write(step, {"train/loss": 3.0 - step / 10, "learning_rate": 1e-3})


def test_trackio_goes_on_with_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    for name in ("one", "two"):
        write_twice(tmp_path / name / "run é", Trackio(project="tests"))
    runs = SQLiteStorage.get_runs("tests")
    assert len(runs) == 2 and all(name.startswith("run---") for name in runs)
    for name in runs:
        logged = SQLiteStorage.get_logs("tests", name)
        assert [(line["step"], line["train/loss"]) for line in logged] == [(s, 3.0 - s / 10) for s in range(5)]
        assert SQLiteStorage.get_run_config("tests", name)["train.steps"] == 4


def test_mlflow_goes_on_with_the_same_run(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    write_twice(tmp_path / "run", MLflow(project="tests", uri=uri))
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(s, 3.0 - s / 10) for s in range(5)]
    assert run.data.params["train.steps"] == "4" and run.data.params["model.windows"] == "[None]"
    assert run.info.status == "FINISHED" and run.info.run_name == "run"


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_CONSOLE", "off")):
        monkeypatch.setenv(name, value)
    write_twice(tmp_path / "run", WandB())
    kept = (tmp_path / "run" / "wandb_run_id").read_text()
    starts = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert starts and all(start.name.endswith(kept) for start in starts)
    assert any(start.glob("*.wandb") for start in starts)


@pytest.mark.parametrize("tracker", [WandB(), Trackio(), MLflow()])
def test_a_package_that_is_missing_is_said_before_anything_is_written(tmp_path, monkeypatch, tracker):
    monkeypatch.setitem(sys.modules, tracker.package, None)
    message = rf'tracker={type(tracker).__name__} needs .*pip install "lmjax\[{tracker.package}\]"'
    with pytest.raises(ValueError, match=message):
        MetricWriters(tmp_path / "run", tracker=tracker)
    with pytest.raises(ValueError, match=message):
        make_plan(tiny_run.config(tmp_path, tracker=tracker))
    assert not os.listdir(tmp_path)


def test_a_tracker_is_kept_in_config_json():
    config = RunConfig(name="x", tracker=MLflow(project="p", uri="sqlite:///m.db"))
    assert from_json(RunConfig, to_json(config)) == config
    with pytest.raises(ValueError, match="tracker.project='': must have a name"):
        Trackio(project="")
    before = to_json(RunConfig(name="x"))
    del before["tracker"]
    before["train"]["wandb"] = False
    assert from_json(RunConfig, before).tracker == NoTracker()
    before["train"]["wandb"] = True
    assert from_json(RunConfig, before).tracker == WandB()


def test_an_identifier_that_cannot_be_one_is_replaced(tmp_path):
    (tmp_path / "wandb_run_id").write_text("../../etc")
    first = kept_id(tmp_path, "wandb")
    assert first != "../../etc" and kept_id(tmp_path, "wandb", new="other") == first
