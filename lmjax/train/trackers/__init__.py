"""Trackers: services that keep the numbers of runs, besides ``metrics.jsonl``. Each tracker has one file."""

from lmjax.train.trackers.mlflow import MLflow
from lmjax.train.trackers.tracker import NoTracker, Session, Tracker
from lmjax.train.trackers.trackio import Trackio
from lmjax.train.trackers.wandb import WandB

__all__ = ["MLflow", "NoTracker", "Session", "Tracker", "Trackio", "WandB"]
