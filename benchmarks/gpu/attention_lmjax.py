"""Attention of lmjax, for `attention_race.py`: serves calls of a case."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from attention_case import Case, segments
from turns import serve

from lmjax import masks
from lmjax.kernels import attend


@functools.cache
def prepared(case: Case):
    """The compiled function of a case, and its inputs."""
    keys = jax.random.split(jax.random.key(0), 3)
    heads = (case.heads, case.kv_heads, case.kv_heads)
    query, key, value = (
        jax.random.normal(k, (case.rows, case.length, n, case.width), jnp.bfloat16)
        for k, n in zip(keys, heads, strict=True)
    )
    segments_BT = jnp.asarray(segments(case.rows, case.length, documents=case.documents))

    def forward(query, key, value):
        mask = masks.causal(case.length) if case.documents == 1 else masks.packed(segments_BT)
        return attend(query, key, value, mask, backend=case.backend)

    def loss(query, key, value):
        return jnp.sum(forward(query, key, value).astype(jnp.float32))

    function = jax.grad(loss, (0, 1, 2)) if case.backward else forward
    inputs = (query, key, value)
    return jax.jit(function).lower(*inputs).compile(), inputs


def call(request: dict) -> None:
    """Computes a case as often as it says."""
    case = Case(**request)
    function, inputs = prepared(dataclasses.replace(case, repeat=1))
    results = None
    for _ in range(case.repeat):
        results = function(*inputs)
    jax.block_until_ready(results)


serve(call, facts={"versions": f"jax {jax.__version__}", "device": jax.devices()[0].device_kind})
