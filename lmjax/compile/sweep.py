"""Layouts of one recipe on the same chips: which there are, which fit, which should be fastest."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator

from lmjax.models.config import ModelConfig
from lmjax.train.config import RunConfig

AXES = ("mesh", "microbatches", "remat")


def parse_sweep(text: str, config: RunConfig, num_devices: int) -> dict[str, list]:
    """Reads ``mesh,microbatches=2/4,remat`` as the values to try of each.

    Without values, ``mesh`` tries every power of two for ``mesh.fsdp`` that divides the devices, ``microbatches``
    half, the same and twice of the recipe's, ``remat`` every policy.

    Raises:
      ValueError: an axis is not known, or a value is not one of its.
    """
    values: dict[str, list] = {}
    policies = list(typing.get_args(typing.get_type_hints(ModelConfig)["remat"]))
    for entry in text.split(","):
        axis, _, given = entry.partition("=")
        chosen = [word for word in given.split("/") if word]
        if axis == "remat":
            unknown = [word for word in chosen if word not in policies]
            if unknown:
                raise ValueError(f"--sweep remat={given}: no policy {unknown[0]!r}; there are {', '.join(policies)}")
            values[axis] = chosen or policies
        elif axis in AXES:
            if not all(word.isdigit() and int(word) > 0 for word in chosen):
                raise ValueError(f"--sweep {entry}: write whole numbers, as in {axis}=4/8")
            values[axis] = [int(word) for word in chosen] or _default(axis, config, num_devices)
        else:
            raise ValueError(f"--sweep {entry}: can try {', '.join(AXES)}, each with values if wanted, as in mesh=8/16")
    return values


def _default(axis: str, config: RunConfig, num_devices: int) -> list[int]:
    if axis == "microbatches":
        own = config.train.microbatches
        return sorted({max(own // 2, 1), own, 2 * own})
    other_ways = math.prod(getattr(config.mesh, name) for name in ("expert", "tensor", "context"))
    ways = (2**power for power in range(num_devices.bit_length()))
    return [fsdp for fsdp in ways if num_devices % (fsdp * other_ways) == 0]


def layouts(config: RunConfig, values: dict[str, list]) -> Iterator[tuple[str, RunConfig | ValueError]]:
    """Returns every combination with its name; a ``ValueError`` instead where the configuration refuses it.

    Args:
      config: the recipe.
      values: of :func:`parse_sweep`.
    """
    for chosen in itertools.product(*values.values()):
        name = " ".join(f"{axis}={value}" for axis, value in zip(values, chosen, strict=True))
        try:
            yield name, _changed(config, dict(zip(values, chosen, strict=True)))
        except ValueError as error:
            yield name, error


def _changed(config: RunConfig, chosen: dict) -> RunConfig:
    if "mesh" in chosen:
        mesh = dataclasses.replace(config.mesh, data=-1, fsdp=chosen["mesh"])
        config = dataclasses.replace(config, mesh=mesh)
    if "microbatches" in chosen:
        train = dataclasses.replace(config.train, microbatches=chosen["microbatches"])
        config = dataclasses.replace(config, train=train)
    if "remat" in chosen:
        execution = dataclasses.replace(config.model.execution, remat=chosen["remat"])
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, execution=execution))
    return config
