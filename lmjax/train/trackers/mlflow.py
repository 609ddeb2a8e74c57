"""MLflow. ``MLFLOW_TRACKING_URI`` or the field ``uri`` decides where its data go."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from lmjax.train.trackers.tracker import Session, Tracker, read_id, write_id

MOST_PARAMETERS = 100
"""The number of parameters that one request may hold."""
_LONGEST = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLflow(Tracker):
    """Logs to MLflow (needs the extra `mlflow`)."""

    uri: str | None = None
    """The tracking server or database, as in `sqlite:///mlflow.db` or `http://HOST:5000`; MLflow's own default when
    unset."""

    package: ClassVar[str | None] = "mlflow"

    def open(self, folder: pathlib.Path, config: Mapping[str, Any]) -> Session:
        """Begins a run, or goes on with it. Steps that are there already are not added again."""
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=self.uri)
        run_id = read_id(folder, "mlflow")
        if run_id is None or not _reopened(client, run_id):
            run_id = self._begun(client, folder, config)
        return _Session(client, run_id)

    def _begun(self, client: Any, folder: pathlib.Path, config: Mapping[str, Any]) -> str:
        """Begins a run with these settings, and returns its identifier, which the folder then keeps."""
        from mlflow.entities import Param

        experiment = client.get_experiment_by_name(self.project)
        number = client.create_experiment(self.project) if experiment is None else experiment.experiment_id
        run_id = client.create_run(number, run_name=folder.resolve().name).info.run_id
        write_id(folder, "mlflow", run_id)
        parameters = [Param(_named(path), str(value)[:_LONGEST]) for path, value in config.items()]
        for begin in range(0, len(parameters), MOST_PARAMETERS):
            client.log_batch(run_id, params=parameters[begin : begin + MOST_PARAMETERS])
        return run_id


def _reopened(client: Any, run_id: str) -> bool:
    """Marks a run as running, and returns whether the server knows it."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException:
        return False
    return True


def _named(name: str) -> str:
    """Returns a name with ``_`` for the characters that MLflow does not take."""
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-./ ") else "_" for sign in name)[:250]


class _Session:
    def __init__(self, client: Any, run_id: str):
        self._client, self._run_id = client, run_id
        names = list(client.get_run(run_id).data.metrics)
        self._last_step = max(
            (metric.step for name in names for metric in client.get_metric_history(run_id, name)), default=-1
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if step <= self._last_step:
            return
        now = round(time.time() * 1000)
        metrics = [Metric(_named(name), value, now, step) for name, value in numbers.items() if math.isfinite(value)]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
