"""The configuration of several sources: where each lies, and how many of the rows come from it at which step."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lmjax.parallel.paths import refuse_address
from lmjax.remote.address import stored_address

TOKENIZER = "tokenizer"
"""The folder of the tokenizer in prepared data; no source may have this name."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_MOST_PARTS = 10**9

Weights = tuple[tuple[int, dict[str, Fraction]], ...]
"""Pairs (first step, share of each source from then on); the first step of the first pair is 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of several, see ``data.sources``; an unset field has the value of the same field of ``data``."""

    path: str | None = None
    """The source's files, as data.path; may be unset if prepared names a finished folder."""
    prepared: str | None = None
    """The folder of its shards, or their address; a folder with its name below data.prepared when unset."""
    document_glob: str | None = None
    """See data.document_glob."""
    document_separator: str | None = None
    """See data.document_separator."""
    cut_files: bool | None = None
    """See data.cut_files."""
    text_field: str | None = None
    """See data.text_field."""
    id_field: str | None = None
    """See data.id_field."""
    template: str | None = None
    """See data.template."""
    prompt_field: str | None = None
    """See data.prompt_field."""
    weight_field: str | None = None
    """See data.weight_field."""
    messages_field: str | None = None
    """See data.messages_field."""
    valid_fraction: float | None = None
    """See data.valid_fraction."""

    def __post_init__(self):
        if stored_address(self.prepared) is None:
            refuse_address("data.sources: prepared", self.prepared)
        if self.path is None and self.prepared is None:
            raise ValueError("data.sources: a source needs a path, or the prepared folder of its shards")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """The weights of the sources from a step on, see ``data.stages``."""

    first_step: int
    """The step that the stage begins with."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """The share of rows from each source, in any unit; a source that is not named is not read."""
    temperature: float | None = None
    """In place of weights: a source of n tokens has the weight n^(1 / temperature)."""


def check_mixing(config: Any) -> None:
    """Refuses sources, weights and stages that do not go together.

    Args:
      config: a :class:`lmjax.data.config.DataConfig`.

    Raises:
      ValueError: naming the field, the value and the remedy.
    """
    _check_folders(config)
    if not (config.sources or config.mixture):
        for name in ("weights", "temperature", "stages", "max_epochs"):
            if getattr(config, name):
                raise ValueError(f"data.{name}={getattr(config, name)!r}: there is one source only: set data.sources")
        return
    if config.sources and config.mixture:
        raise ValueError("data.sources and data.mixture are both given: keep one of them")
    for name in config.sources:
        if not _NAME.fullmatch(name) or name == TOKENIZER:
            raise ValueError(
                f"data.sources: {name!r} is no name of a source: use letters, digits, '.', '_' and '-', and not "
                f"{TOKENIZER!r}"
            )
    if config.mixture and (config.weights or config.temperature):
        raise ValueError("data.mixture goes with data.mixture_weights: leave out data.weights and data.temperature")
    if config.sources:
        _check_weights(config, "data.", config.weights, config.temperature, needed=False)
    steps = [0, *(stage.first_step for stage in config.stages)]
    if any(step >= following for step, following in itertools.pairwise(steps)):
        raise ValueError(f"data.stages: the first steps {steps[1:]} must be above 0 and rise")
    for stage in config.stages:
        where = f"data.stages: the stage from step {stage.first_step}: "
        _check_weights(config, where, stage.weights, stage.temperature, needed=True)
    if config.stages and config.packing == "streams":
        raise ValueError(
            'data.packing="streams" with data.stages: streams go on from step to step, so the number of streams of a '
            "source cannot change: leave data.stages empty, or use another packing"
        )
    for name, epochs in config.max_epochs.items():
        _check_name(config, "data.max_epochs", name)
        if not (math.isfinite(epochs) and epochs > 0):
            raise ValueError(f"data.max_epochs: {name}={epochs}: must be above 0")


def _check_folders(config: Any) -> None:
    if len(config.mixture) != len(config.mixture_weights):
        raise ValueError(
            f"data.mixture_weights has {len(config.mixture_weights)} values and data.mixture "
            f"{len(config.mixture)} folders: give one weight for each folder"
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in config.mixture_weights):
        raise ValueError(f"data.mixture_weights={config.mixture_weights}: weights must be above 0")
    if config.mixture and config.prepared is not None:
        raise ValueError("data.prepared and data.mixture are both given: keep one of them")


def _check_weights(
    config: Any, where: str, weights: Mapping[str, float], temperature: float | None, *, needed: bool
) -> None:
    if weights and temperature is not None:
        raise ValueError(f"{where}weights and {where}temperature are both given: keep one of them")
    if needed and not weights and temperature is None:
        raise ValueError(f"{where}give weights, or a temperature")
    for name, weight in weights.items():
        _check_name(config, f"{where}weights", name)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{where}weights: {name}={weight}: must not be negative")
    if weights and not sum(weights.values()):
        raise ValueError(f"{where}weights={dict(weights)}: at least one must be above 0")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"{where}temperature={temperature}: must be above 0; 1 is by size, more is more even")


def _check_name(config: Any, where: str, name: str) -> None:
    if name not in config.source_names:
        raise ValueError(f"{where} names {name!r}, which is no source: there are {', '.join(config.source_names)}")


def weights_by_step(config: Any, tokens: Mapping[str, int]) -> Weights:
    """Returns the shares of the sources, stage by stage; in each stage they add up to 1.

    Without weights and temperature, a source has as many rows as it has tokens (temperature 1).

    Args:
      config: a :class:`lmjax.data.config.DataConfig` with several sources.
      tokens: number of training tokens of each source.
    """
    if config.mixture:
        first = dict(zip(config.source_names, config.mixture_weights, strict=True))
    else:
        first = config.weights or _by_temperature(config.temperature or 1.0, tokens)
    later = [(stage.first_step, stage.weights or _by_temperature(stage.temperature, tokens)) for stage in config.stages]
    return tuple((step, _shares(config.source_names, weights)) for step, weights in ((0, first), *later))


def _by_temperature(temperature: float, tokens: Mapping[str, int]) -> dict[str, float]:
    if temperature == 1.0:
        return dict(tokens)
    largest = max(tokens.values())
    return {name: (number / largest) ** (1 / temperature) for name, number in tokens.items()}


def _shares(names: tuple[str, ...], weights: Mapping[str, float]) -> dict[str, Fraction]:
    exact = {name: Fraction(weights.get(name, 0)).limit_denominator(_MOST_PARTS) for name in names}
    total = sum(exact.values())
    return {name: weight / total for name, weight in exact.items()}


def weights_until(weights: Weights, step: int) -> list[tuple[int, dict[str, Fraction]]]:
    """Returns the shares above 0 that decide which rows the steps before ``step`` read, without empty changes."""
    kept: list[tuple[int, dict[str, Fraction]]] = []
    for first_step, shares in weights:
        used = {name: share for name, share in sorted(shares.items()) if share}
        if first_step < step and (not kept or kept[-1][1] != used):
            kept.append((first_step, used))
    return kept


def described(shares: Mapping[str, Fraction]) -> str:
    """Returns shares for people, as in ``web 0.8, code 0.2``."""
    return ", ".join(f"{name} {float(share):.3g}" for name, share in shares.items() if share)
