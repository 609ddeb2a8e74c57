"""Matrix products of 8-bit numbers, forward and backward, on arrays that qwix quantizes.

An array is divided by a scale and rounded: ``a ~ s q``. A product is computed of the small numbers, summed in float32
(int32 for integers) and multiplied with both scales.

``fp8``: operands are float8_e4m3fn, gradients float8_e5m2, with one scale for an array, ``max|a|`` over the largest
number of the format (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"; the scale is that of the array itself,
not of earlier steps). The backward pass reuses the operands of the forward pass.

``int8``: a scale for each row of the input and each column of the matrix, and in the gradient by the input for each row
of both. The gradient by the matrix, a sum over all tokens, keeps the dtype of its operands (SwitchBack: Wortsman et al.
2023, "Stable and low-precision training for large-scale vision-language models", section 2).

Axes: R rows of the input, K in, N out.
"""

import functools
import importlib.util
import types
from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp

LowPrecision = Literal["none", "fp8", "int8"]

FP8_CAPABILITY = 8.9
"""The compute capability from which on NVIDIA GPUs multiply 8-bit floats (Ada, Hopper)."""
_INSTALL = "pip install 'lmjax[low-precision]'"


def check_low_precision(kind: LowPrecision, devices: Iterable[Any]) -> None:
    """Refuses products that cannot be computed here. A CPU computes all of them, slowly, to try what they do.

    Args:
      kind: the kind of products.
      devices: the devices of the mesh; they may be those of another machine.

    Raises:
      ValueError: qwix is not installed, or a device has no such products.
    """
    if kind == "none":
        return
    name = f"model.execution.low_precision={kind!r}"
    if importlib.util.find_spec("qwix") is None:
        raise ValueError(f"{name} needs the package qwix: {_INSTALL}, or set it to none")
    for device in devices:
        if remedy := _cannot(kind, device):
            raise ValueError(f"{name}: {device.device_kind} has no such products: {remedy}")


def _cannot(kind: LowPrecision, device: Any) -> str | None:
    """Returns what to do instead if a device lacks these products, else None."""
    if device.platform == "cpu":
        return None
    if device.platform == "tpu":
        # The chips before have integers of 8 bits only.
        return None if kind == "int8" or "7x" in device.device_kind.lower() else "use int8 on it, or none"
    if kind == "int8":
        return "use fp8 on GPUs, or none"
    try:
        capability = float(getattr(device, "compute_capability", ""))
    except ValueError:
        capability = 0.0
    return None if capability >= FP8_CAPABILITY else f"fp8 needs compute capability {FP8_CAPABILITY} or more; use none"


@functools.cache
def _qwix() -> types.ModuleType:
    try:
        import qwix
    except ImportError as error:
        raise ValueError(f"products of 8 bits need the package qwix: {_INSTALL}") from error
    return qwix


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def low_precision_product(rows_RK: jax.Array, weight_KN: jax.Array, kind: LowPrecision) -> jax.Array:
    """Returns ``rows W`` [R, N] in the dtype of ``rows``, with products of 8 bits; see the module for the formulas.

    Args:
      rows_RK: the input, any floating dtype.
      weight_KN: the matrix W.
      kind: the kind of products.

    Raises:
      ValueError: qwix is not installed.
    """
    return _forward(rows_RK, weight_KN, kind)[0]


def _forward(rows_RK: jax.Array, weight_KN: jax.Array, kind: LowPrecision) -> tuple[jax.Array, Any]:
    if kind == "fp8":
        rows, weight = _quantized(rows_RK, jnp.float8_e4m3fn), _quantized(weight_KN, jnp.float8_e4m3fn)
        # The dtypes of the gradients go along as empty arrays.
        dtypes = jnp.empty((0,), rows_RK.dtype), jnp.empty((0,), weight_KN.dtype)
        return _product(rows, weight, 1, 0).astype(rows_RK.dtype), (rows, weight, dtypes)
    rows, weight = _quantized(rows_RK, jnp.int8, axis=0), _quantized(weight_KN, jnp.int8, axis=1)
    return _product(rows, weight, 1, 0).astype(rows_RK.dtype), (rows_RK, weight_KN)


def _backward(kind: LowPrecision, residuals: Any, gradient_RN: jax.Array) -> tuple[jax.Array, jax.Array]:
    if kind == "fp8":
        rows, weight, (rows_dtype, weight_dtype) = residuals
        gradient = _quantized(gradient_RN, jnp.float8_e5m2)
        by_rows_RK, by_weight_KN = _product(gradient, weight, 1, 1), _product(rows, gradient, 0, 0)
        return by_rows_RK.astype(rows_dtype.dtype), by_weight_KN.astype(weight_dtype.dtype)
    rows_RK, weight_KN = residuals
    gradient = _quantized(gradient_RN, jnp.int8, axis=0)
    by_rows_RK = _product(gradient, _quantized(weight_KN, jnp.int8, axis=0), 1, 1)
    by_weight_KN = jnp.matmul(rows_RK.T, gradient_RN, preferred_element_type=jnp.float32)
    return by_rows_RK.astype(rows_RK.dtype), by_weight_KN.astype(weight_KN.dtype)


low_precision_product.defvjp(_forward, _backward)


def _quantized(array: jax.Array, qtype: Any, *, axis: int | None = None) -> Any:
    """Returns the quantized array: one scale for all of it, or one for each index of an axis."""
    return _qwix().quantize(array.astype(jnp.float32), qtype, channelwise_axes=() if axis is None else (axis,))


def _product(first: Any, second: Any, first_axis: int, second_axis: int) -> jax.Array:
    """Returns the product of two quantized matrices over one axis of each, float32."""
    dimensions = (((first_axis,), (second_axis,)), ((), ()))
    return _qwix().dot_general(first, second, dimensions, preferred_element_type=jnp.float32)
