"""Runs with two bad batches in their data, and the same runs without them."""

import dataclasses
import pathlib
from unittest import mock

import numpy as np
from tiny_run import config, with_train

from lmjax.schedules import ScheduleConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig
from lmjax.train.curriculum import Curriculum
from lmjax.train.optimizers import AdamW

BATCH = 8
NAN_BATCH, NOISE_BATCH = 9, 13
NAN_ROW = 2
UPDATES = 18


class Planted:
    """The rows of a run with two bad batches among them; or the rows without these batches."""

    def __init__(self, rows, *, bad: bool):
        self._rows, self._bad = rows, bad

    def cut(self, row_length):
        return Planted(self._rows.cut(row_length), bad=self._bad)

    def placed(self, *place):
        return Planted(self._rows.placed(*place), bad=self._bad)

    def epochs(self, *place):
        return self._rows.epochs(*place)

    def rows(self, indices):
        numbers = list(indices)
        if not self._bad:
            numbers = [n + BATCH * ((n >= BATCH * NAN_BATCH) + (n >= BATCH * (NOISE_BATCH - 1))) for n in numbers]
        rows = self._rows.rows(numbers)
        tokens_BT = np.array(rows.tokens_BT)
        weights_BT = np.asarray(rows.segments_BT != 0, np.float32)
        for row, number in enumerate(numbers):
            batch, place = divmod(number, BATCH)
            if self._bad and batch == NAN_BATCH and place == NAN_ROW:
                weights_BT[row, 3] = np.nan
            if self._bad and batch == NOISE_BATCH:
                tokens_BT[row] = np.random.default_rng(number).integers(128, 256, tokens_BT.shape[1])
        return dataclasses.replace(rows, tokens_BT=tokens_BT, weights_BT=weights_BT)


def planted(*, bad: bool = True):
    """Lets the runs that are started meanwhile read such rows."""
    rows_of = Curriculum.rows
    return mock.patch.object(Curriculum, "rows", lambda self, *a, **o: Planted(rows_of(self, *a, **o), bad=bad))


def planted_config(text: pathlib.Path, folder: pathlib.Path, on_fault, *, steps: int = UPDATES, **train) -> RunConfig:
    base = with_train(config(text.parent, objective_name="CausalLM"), eval_every=0, steps=steps, **train)
    return dataclasses.replace(
        base,
        folder=str(folder),
        on_fault=on_fault,
        optimizer=AdamW(learning_rate=3e-2),
        schedule=ScheduleConfig(kind="constant", warmup_steps=12),
        checkpoint=CheckpointConfig(every_steps=4, keep_last=None),
    )
