"""Saves step 1 wholly, then says so and saves step 2, large enough to be killed in the middle."""

import sys

import jax

jax.config.update("jax_platforms", "cpu")

import numpy as np  # noqa: E402

from lmjax.train.checkpoint import Checkpoints  # noqa: E402

with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, {"params": {"w": jax.numpy.ones(1 << 24)}}, 1)
    checkpoints.wait()
    noise = np.random.default_rng(0).random(1 << 24, dtype=np.float32)
    print("saving", flush=True)
    checkpoints.save(2, {"params": {"w": jax.device_put(noise)}}, 2)
