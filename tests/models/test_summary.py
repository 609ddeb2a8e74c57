"""Sizes and costs against numbers worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import tiny
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.models.summary import describe, summarize
from lmjax.objectives import DPO

# Width 16, 2 layers, 2 heads of 8, feed-forward 32 (gated), 64 ids.
ATTENTION = 2 * 4 * 16 * 16
FEEDFORWARD = 2 * 3 * 16 * 32
EMBEDDING = 64 * 16
NORMS = (2 * 2 + 1) * 16


def test_parameters_by_component_and_flops_of_a_tied_model():
    summary = summarize(tiny.model_spec(), tiny.MODEL, sequence_length=10)
    assert summary.components == {
        "attention": ATTENTION, "feedforward": FEEDFORWARD, "embedding": EMBEDDING, "norms": NORMS
    }  # fmt: skip
    assert summary.parameters == ATTENTION + FEEDFORWARD + EMBEDDING + NORMS == 6224
    assert summary.embedding_parameters == EMBEDDING
    # The table multiplies as the head; looking a row up costs nothing.
    products = 6 * (ATTENTION + FEEDFORWARD + NORMS + EMBEDDING)
    scores_and_sums = 2 * 3 * 2 * (2 * 8) * 10 * 2
    assert summary.flops_per_token == products + scores_and_sums == 41184


def test_unrolled_layers_windows_and_a_head_of_its_own():
    model = dataclasses.replace(
        tiny.MODEL, execution=ExecutionConfig(scan_layers=False),
        tie_embeddings=False, head_bias=True, positions="learned", max_length=20,
        windows=(4, None),
    )  # fmt: skip
    summary = summarize(tiny.model_spec(model), model, sequence_length=10)
    assert summary.components == {
        "attention": ATTENTION, "feedforward": FEEDFORWARD, "embedding": EMBEDDING, "norms": NORMS,
        "position_embedding": 20 * 16, "head": 16 * 64 + 64,
    }  # fmt: skip
    assert summary.embedding_parameters == EMBEDDING + 20 * 16
    seen_keys = 4 + 10
    products = 6 * (ATTENTION + FEEDFORWARD + NORMS + 16 * 64 + 64)
    assert summary.flops_per_token == products + 12 * 2 * 8 * seen_keys


def test_an_encoders_parameters_meet_its_tokens_and_a_decoders_its_own():
    model = dataclasses.replace(
        tiny.MODEL, encoder_layers=3, tie_embeddings=False, positions="relative", relative_past_only=True
    )
    spec = tiny.model_spec(model)
    summary = summarize(spec, model, sequence_length=10, decoder_length=4)
    buckets = 2 * 32 * 2
    assert summary.embedding_parameters == EMBEDDING + buckets
    layer, square = (ATTENTION + FEEDFORWARD) // 2 + 2 * 16, 16 * 16
    read = 3 * layer + 16 + 2 * 2 * square  # The encoder, and two layers' keys and values of it.
    written = 2 * (layer + 2 * square + 16) + 16 + 16 * 64
    assert summary.parameters == EMBEDDING + buckets + read + written
    scores_and_sums = 12 * 2 * 8
    reading = 10 * (6 * read + scores_and_sums * 3 * 10)
    writing = 4 * (6 * written + scores_and_sums * 2 * (4 + 10))
    assert summary.flops_per_token == round((reading + writing) / 10)
    even = summarize(spec, model, sequence_length=10)
    assert even.flops_per_token == 6 * (read + written) + scores_and_sums * (3 * 10 + 2 * 20)


def test_a_shared_layer_multiplies_as_often_as_it_is_applied():
    model = dataclasses.replace(tiny.MODEL, share_layers=True)
    summary = summarize(tiny.model_spec(model), model, sequence_length=10)
    assert summary.parameters < 6224
    assert summary.flops_per_token == 41184


def test_memory_is_that_of_one_device():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split = jax.device_put(jnp.zeros((8, 4)), NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(jnp.zeros((8, 4), jnp.bfloat16), NamedSharding(mesh, PartitionSpec()))
    held = {"parameters": {"a": split, "b": whole}, "optimizer": jax.ShapeDtypeStruct((3,), jnp.int32), "average": None}
    summary = summarize(tiny.model_spec(), tiny.MODEL, sequence_length=10, held=held)
    assert summary.held_bytes == {"parameters": 64 + 64, "optimizer": 12, "average": 0}


def test_the_table_people_see():
    spec = tiny.model_spec()
    summary = summarize(
        spec,
        tiny.MODEL,
        sequence_length=10,
        held={"parameters": spec.shapes, "optimizer": [spec.shapes] * 3, "average": None},
    )
    lines = [" ".join(line.split()) for line in describe(summary).splitlines() if line.strip(" ─")]
    assert lines == [
        "model number share",
        "feedforward 3,072 49.4%",
        "attention 2,048 32.9%",
        "embedding 1,024 16.5%",
        "norms 80 1.3%",
        "all parameters 6,224 100%",
        "FLOPs of a token 41,184",
        "memory: parameters 24.3 KiB 25.0%",
        "memory: optimizer 72.9 KiB 75.0%",
        "memory of a device 97.2 KiB 100%",
    ]


def test_a_frozen_copy_costs_a_forward_pass():
    model = tiny.MODEL
    spec = module_spec(lambda key: DPO().build(model, rngs=nnx.Rngs(params=key)))
    alone = summarize(tiny.model_spec(model), model, sequence_length=10)
    both = summarize(spec, model, sequence_length=10)
    assert both.flops_per_token - alone.flops_per_token == pytest.approx(2 * alone.parameters, abs=1)
