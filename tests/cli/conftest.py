"""The command line called in this process, and one tiny run that the tests of this folder share."""

import contextlib
import dataclasses
import io
import pathlib
import re
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from lmjax.cli.main import main

RECIPE = '''
"""A recipe for tests.

    lmjax train {name}.py
"""
from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.objectives import CausalLM, MaskedLM
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.schedules import ScheduleConfig


def {name}() -> RunConfig:
    return RunConfig(
        name="{name}",
        folder=r"{folder}/{name}",
        objective={objective}(),
        model=ModelConfig(width=16, num_layers=2, num_heads=2, feedforward_width=32, max_length=64),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path=r"{folder}/text", prepared=r"{folder}/data", valid_fraction=0.3),
        schedule=ScheduleConfig(kind="constant"),
        train=TrainConfig(
            steps=4, batch_size=4, sequence_length=16, log_every=1, eval_every=2, eval_batches=0, tensorboard=False
        ),
        checkpoint=CheckpointConfig(every_steps=2),
    )
'''


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Standard error without the rules tyro draws and the lines it breaks."""
        return re.sub(r"(\s|-{3,})+", " ", self.err).strip()


def command(*arguments: object, stdin: bytes = b"", num_devices: int = 1) -> Result:
    """Calls ``lmjax ARGUMENTS`` in this process, on the first devices."""
    out, err, devices = io.StringIO(), io.StringIO(), jax.devices()[:num_devices]
    with (
        mock.patch.object(sys, "argv", ["lmjax", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        mock.patch.object(sys, "unraisablehook", sys.unraisablehook),
        mock.patch.object(jax, "devices", lambda *_: devices),
        mock.patch.dict("os.environ", {"COLUMNS": "80"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exit_,
    ):
        main()
    return Result(exit_.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def lmjax():
    """Calls the command line."""
    return command


def write_text(folder: pathlib.Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = np.array(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"])
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(" ".join(rng.choice(words, 60)))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> pathlib.Path:
    """Texts, and the recipes ``tiny.py`` (a causal model) and ``encoder.py`` (a masked one)."""
    folder = tmp_path_factory.mktemp("workspace")
    write_text(folder / "text")
    for name, objective in (("tiny", "CausalLM"), ("encoder", "MaskedLM")):
        (folder / f"{name}.py").write_text(RECIPE.format(name=name, folder=folder, objective=objective).lstrip())
    return folder


@pytest.fixture(scope="session")
def trained(workspace) -> Result:
    """What ``lmjax train tiny.py --profile`` said; the run is ``workspace/tiny``."""
    return command("train", workspace / "tiny.py", "--profile")
