"""Options of XLA's compiler for a training step, by platform. They change its speed, and nothing that it computes."""

import os
from collections.abc import Mapping

VARIABLE = "LMJAX_COMPILER_OPTIONS"
"""The environment variable that leaves the compiler as it is: ``0`` or ``off``."""

OPTIONS: Mapping[str, Mapping[str, bool | int]] = {
    "tpu": {
        # Parameters are gathered and gradients summed beside other work. Gradients of several matrices are not put
        # together above 1 MiB: what is put together is summed while nothing else runs.
        "xla_enable_async_all_gather": True,
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
        "xla_enable_async_all_reduce": True,
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
        "xla_jf_crs_combiner_threshold_in_bytes": 1 << 20,
    },
}
"""Options by platform and name."""


def compiler_options(platform: str, environment: Mapping[str, str] = os.environ) -> dict[str, bool | int]:
    """Returns the options to compile a training step with, for ``jax.jit``.

    Args:
      platform: of the devices: "cpu", "gpu", "tpu".
      environment: variables. An option that ``LIBTPU_INIT_ARGS`` or ``XLA_FLAGS`` names stays as it says there.
    """
    if environment.get(VARIABLE, "").lower() in ("0", "off"):
        return {}
    words = " ".join(environment.get(name, "") for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS")).split()
    named = {word.lstrip("-").partition("=")[0] for word in words}
    return {name: value for name, value in OPTIONS.get(platform, {}).items() if name not in named}
