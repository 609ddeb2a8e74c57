"""Products of 8 bits: their formulas by hand, their gradients, and what is refused."""

import dataclasses
import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.kernels.low_precision import check_low_precision, low_precision_product
from lmjax.models.execution import ExecutionConfig
from lmjax.runs.opened import make_learner
from lmjax.train.config import RunConfig
from lmjax.train.setup import lay_out

needs_qwix = pytest.mark.skipif(importlib.util.find_spec("qwix") is None, reason="needs qwix")


def rounded(array, qtype, axis=None):
    """The array as it is after it was quantized, written out in numpy."""
    largest = np.abs(array).max(axis=axis, keepdims=axis is not None)
    scale = largest / (127.5 if qtype == jnp.int8 else float(jnp.finfo(qtype).max))
    scaled = array / scale
    small = np.clip(np.round(scaled), -128, 127) if qtype == jnp.int8 else np.float32(jnp.asarray(scaled, qtype))
    return small * scale


@pytest.fixture(scope="module")
def arrays():
    draw = np.random.default_rng(0)
    found = [draw.uniform(-1, 1, size).astype(np.float32) for size in ((6, 8), (8, 4), (6, 4))]
    for array in found:
        # The largest number of a row or column is half way between two integers. It is positive here, and clipped.
        index = np.arange(len(array))
        array[index, index % array.shape[1]] = 2
    return tuple(found)


@needs_qwix
def test_fp8_product_and_gradients_are_those_of_the_rounded_arrays(arrays):
    rows, weight, gradient = arrays
    output, pull = jax.vjp(lambda r, w: low_precision_product(r, w, "fp8"), rows, weight)
    by_rows, by_weight = pull(jnp.asarray(gradient))
    rows, weight = rounded(rows, jnp.float8_e4m3fn), rounded(weight, jnp.float8_e4m3fn)
    gradient = rounded(gradient, jnp.float8_e5m2)
    np.testing.assert_allclose(output, rows @ weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_rows, gradient @ weight.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_weight, rows.T @ gradient, rtol=1e-5, atol=1e-6)


@needs_qwix
def test_int8_product_has_a_scale_a_row_and_its_gradient_by_the_matrix_is_exact(arrays):
    rows, weight, gradient = arrays
    output, pull = jax.vjp(lambda r, w: low_precision_product(r, w, "int8"), rows, weight)
    by_rows, by_weight = pull(jnp.asarray(gradient))
    product = rounded(rows, jnp.int8, axis=1) @ rounded(weight, jnp.int8, axis=0)
    back = rounded(gradient, jnp.int8, axis=1) @ rounded(weight, jnp.int8, axis=1).T
    np.testing.assert_allclose(output, product, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_rows, back, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_weight, rows.T @ gradient, rtol=1e-5, atol=1e-6)


@needs_qwix
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_zeros_give_zeros_and_dtypes_stay(kind):
    rows, weight = jnp.zeros((3, 4), jnp.bfloat16), jnp.zeros((4, 2), jnp.bfloat16)
    output, pull = jax.vjp(lambda r, w: low_precision_product(r, w, kind), rows, weight)
    for array in (output, *pull(jnp.ones_like(output))):
        assert array.dtype == jnp.bfloat16
        assert not np.any(np.asarray(array, np.float32))


@needs_qwix
@pytest.mark.long
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_losses_of_training_stay_within_a_hundredth_of_bfloat16(kind):
    def losses(low_precision):
        execution = ExecutionConfig(dtype="bfloat16", scan_layers=False, remat="none", low_precision=low_precision)
        model = dataclasses.replace(tiny.MODEL, num_layers=1, execution=execution)
        return np.array(tiny.train_losses(tiny.learner(model=model), steps=6, packed=False))

    low, high = losses(kind), losses("none")
    assert not np.array_equal(low, high)
    np.testing.assert_allclose(low, high, rtol=0.01)


def device(platform, kind, capability=None):
    return types.SimpleNamespace(platform=platform, device_kind=kind, compute_capability=capability)


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        ("fp8", device("gpu", "NVIDIA A100", "8.0"), "compute capability 8.9"),
        ("fp8", device("gpu", "gfx90a", "gfx90a"), "compute capability 8.9"),
        ("fp8", device("tpu", "TPU v5 lite"), "use int8"),
        ("int8", device("gpu", "NVIDIA H100", "9.0"), "use fp8"),
    ],
)
def test_devices_without_such_products_are_refused(kind, where, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match=f"model.execution.low_precision='{kind}': {where.device_kind}.*{message}"):
        check_low_precision(kind, [where])


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("fp8", device("gpu", "NVIDIA H100", "9.0")),
        ("fp8", device("tpu", "TPU7x")),
        ("int8", device("tpu", "TPU v5 lite")),
        ("fp8", device("cpu", "cpu")),
        ("none", device("gpu", "NVIDIA A100", "8.0")),
    ],
)
def test_devices_that_have_them_are_taken(kind, where, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert check_low_precision(kind, [where]) is None


def test_without_qwix_a_run_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"low_precision='int8' needs the package qwix: pip install 'lmjax\[low-precision\]'"
    ):
        check_low_precision("int8", [device("cpu", "cpu")])


def test_training_is_refused_before_data_are_prepared_and_a_finished_run_opens_without_qwix(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = dataclasses.replace(tiny.MODEL, execution=ExecutionConfig(low_precision="fp8"))
    config = RunConfig(name="low", model=model)
    with pytest.raises(ValueError, match="needs the package qwix"):
        lay_out(config, devices=jax.devices()[:1])
    opened, _ = make_learner(config, types.SimpleNamespace(vocabulary=tiny.VOCABULARY))
    assert opened.model.execution.low_precision == "none"
