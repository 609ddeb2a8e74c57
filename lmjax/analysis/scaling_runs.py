"""Run folders as points of a scaling law: the size of the model, the tokens it was trained on, its loss."""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Literal

import jax
from flax import nnx

from lmjax.analysis.run_files import read_run
from lmjax.curves.scaling import FLOPS_PER_PARAMETER
from lmjax.models.with_extras import model_spec
from lmjax.tokenizers import load_tokenizer
from lmjax.train.config import RunConfig
from lmjax.train.config_file import read_config
from lmjax.train.record import read_record
from lmjax.train.run_folder import CONFIG, TOKENIZER

Measured = Literal["loss", "bits_per_byte"]
"""The number of the validation that the law is of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """A run as a point of a scaling law.

    Attributes:
      folder: the run folder.
      parameters: N, the number of parameters of the model.
      tokens: D, the number of tokens of all steps.
      loss: the last validation's loss, in nats, or its bits per byte.
      tokenizer: the fingerprint of the tokenizer.
    """

    folder: pathlib.Path
    parameters: int
    tokens: int
    loss: float
    tokenizer: str

    @property
    def flops(self) -> float:
        """The FLOPs of the training, ``6 N D``."""
        return FLOPS_PER_PARAMETER * self.parameters * self.tokens


def scaling_points(folders: Sequence[pathlib.Path], *, by: Measured, embeddings: bool = True) -> list[ScalingPoint]:
    """Returns the points of run folders.

    Args:
      folders: the run folders.
      by: which number of the last validation to take.
      embeddings: whether the tables of tokens and positions count as parameters (Hoffmann et al. 2022 count them,
        Kaplan et al. 2020 do not).

    Raises:
      ValueError: a folder is not a run, was not validated, or has not saved; or losses of different tokenizers are to
        be compared.
    """
    points = [_point(folder, by=by, embeddings=embeddings) for folder in folders]
    others = [point.folder for point in points if point.tokenizer != points[0].tokenizer]
    if others and by == "loss":
        raise ValueError(
            f"{others[0]} has another tokenizer than {points[0].folder}: their losses are of different tokens; compare "
            f"bits per byte (--by bits_per_byte)"
        )
    return points


def _point(folder: pathlib.Path, *, by: Measured, embeddings: bool) -> ScalingPoint:
    files = read_run(folder)
    config = read_config(folder / CONFIG)
    record = read_record(folder)
    loss, step = files.last(f"valid/{by}"), files.last_saved
    if loss is None:
        raise ValueError(f"{folder} has no valid/{by}: train it with train.eval_every, or to its end")
    if record is None or not step:
        raise ValueError(f"{folder} has no saved step: train it until its first save (checkpoint.every_steps)")
    bounds = [*record.batch_sizes, (step, 0)]
    rows = sum(size * max(min(end, step) - begin, 0) for (begin, size), (end, _) in itertools.pairwise(bounds))
    if config.train.sequence_warmup and config.train.warmup_keeps == "rows":
        raise ValueError(
            f"{folder}: train.warmup_keeps='rows': its steps have different numbers of tokens: leave it out"
        )
    return ScalingPoint(
        folder=folder,
        parameters=num_parameters(config, embeddings=embeddings),
        tokens=rows * config.train.sequence_length,
        loss=loss,
        tokenizer=load_tokenizer(folder / TOKENIZER).fingerprint,
    )


def num_parameters(config: RunConfig, *, embeddings: bool = True) -> int:
    """Returns the number of parameters of the model of a run's resolved configuration; nothing is allocated."""
    spec = model_spec(lambda key: config.objective.build(config.model, rngs=nnx.Rngs(params=key)))
    sizes = jax.tree.map(
        lambda leaf, kind: math.prod(leaf.shape) if embeddings or kind != "embedding" else 0, spec.shapes, spec.kinds
    )
    return sum(jax.tree.leaves(sizes))
