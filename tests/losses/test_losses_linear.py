"""The fused head and loss equals the plain one, on any mesh, and never holds all the logits."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax import losses
from lmjax.parallel.mesh import MeshConfig, make_mesh

OPTIONS = {
    "bare": {},
    "smoothing": {"label_smoothing": 0.1, "z_loss": 0.01},
    "all": {"softcap": 3.0, "label_smoothing": 0.2, "smoothing": "others", "z_loss": 0.05},
}
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "mixed": MeshConfig(data=2, fsdp=2, tensor=2),
}
BY_ALL = (0, 1, 2, 3)
BY_PARAMETERS = (0, 1, 2)


@functools.partial(jax.jit, static_argnums=range(4))
def inputs(batch=8, length=5, width=16, vocab=24):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (batch, length, width))
    head = jax.random.normal(keys[1], (width, vocab)) / 2
    targets = jax.random.randint(keys[2], (batch, length), 0, vocab)
    weights = jax.random.uniform(keys[3], (batch, length)) * (jnp.arange(length) % 3 != 1)[None, :]
    targets = jnp.where(weights == 0, losses.IGNORE_INDEX, targets)
    bias = jax.random.normal(keys[4], (vocab,))
    return hidden, head, bias, weights, targets


def plain_losses(hidden, head, bias, targets, *, softcap=None, **options):
    logits = hidden @ head + bias[None, None, :]
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return losses.cross_entropy(logits, targets, **options)


def plain(hidden, head, bias, weights, targets, **options):
    return jnp.sum(weights * plain_losses(hidden, head, bias, targets, **options))


def fused(hidden, head, bias, weights, targets, **options):
    options = {"chunk_size": 7, **options}
    return losses.linear_cross_entropy(hidden, head, targets, weights, bias=bias, **options)


def run(function, *arguments):
    return jax.device_get(jax.jit(function)(*arguments))


@functools.cache
def expected(name):
    return run(jax.value_and_grad(functools.partial(plain, **OPTIONS[name]), BY_ALL), *inputs())


@pytest.mark.parametrize(
    ("name", "jit"), [*((name, True) for name in OPTIONS), ("all", False)], ids=[*OPTIONS, "without jit"]
)
def test_equals_the_plain_loss_in_value_and_every_gradient(name, jit):
    function = functools.partial(fused, **OPTIONS[name])
    value_and_grad = jax.value_and_grad(function, BY_ALL)
    value, gradients = (jax.jit(value_and_grad) if jit else value_and_grad)(*inputs())
    chex.assert_trees_all_close((value, gradients), expected(name), atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(run(function, *inputs()), jax.device_get(value), rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 8, 40, 1000, None])
def test_the_chunk_size_does_not_matter(chunk_size):
    function = functools.partial(fused, chunk_size=chunk_size)
    value_and_gradients = run(jax.value_and_grad(function, BY_ALL), *inputs())
    chex.assert_trees_all_close(value_and_gradients, expected("bare"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mesh_name", MESHES)
@pytest.mark.parametrize("name", ["bare", "all"])
def test_equals_the_plain_loss_on_a_mesh(mesh_name, name):
    mesh = make_mesh(MESHES[mesh_name])
    rows = PartitionSpec(("data", "fsdp"))
    specs = (rows, PartitionSpec("fsdp", "tensor"), PartitionSpec("tensor"), rows, rows)
    arguments = jax.device_put(inputs(), tuple(NamedSharding(mesh, spec) for spec in specs))
    with jax.set_mesh(mesh):
        function = functools.partial(fused, chunk_size=2, **OPTIONS[name])
        value, gradients = jax.jit(jax.value_and_grad(function, BY_ALL))(*arguments)
    for gradient, argument in zip(gradients, arguments, strict=False):
        assert gradient.sharding.is_equivalent_to(argument.sharding, argument.ndim)
    chex.assert_trees_all_close(jax.device_get((value, gradients)), expected(name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5, 16, 24), (8, 3, 15, 23)], ids=["batch", "width and vocabulary"])
def test_what_the_mesh_does_not_divide_is_not_split(shape):
    arguments = inputs(*shape)
    plain_one = run(jax.value_and_grad(plain, BY_PARAMETERS), *arguments)
    with jax.set_mesh(make_mesh(MESHES["mixed"])):
        fused_one = run(jax.value_and_grad(fused, BY_PARAMETERS), *arguments)
    chex.assert_trees_all_close(fused_one, plain_one, atol=1e-5, rtol=1e-5)


def while_bodies(text):
    """The computations of an HLO module that its loops run."""
    computations = dict(re.findall(r"^%?([\w.-]+) \(.*?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    return [computations[name] for name in re.findall(r"body=%([\w.-]+)", text)]


def test_the_gradient_of_the_head_is_reduced_once_after_the_chunks():
    with jax.set_mesh(make_mesh(MESHES["data"])):
        value_and_grad = jax.jit(jax.value_and_grad(functools.partial(fused, chunk_size=1), BY_PARAMETERS))
        text = value_and_grad.lower(*inputs()).compile().as_text()
    assert "all-reduce" in text
    bodies = while_bodies(text)
    assert any("dot(" in body or "fusion(" in body for body in bodies)
    assert not any("all-reduce" in body for body in bodies)


def test_inside_a_scan_over_microbatches_on_a_mesh():
    arguments = inputs(16)

    def accumulated(hidden, head, bias, weights, targets):
        halves = [x.reshape(2, 8, *x.shape[1:]) for x in (hidden, weights, targets)]

        def add(total, half):
            part = jax.value_and_grad(fused, (1, 2))(half[0], head, bias, half[1], half[2])
            return jax.tree.map(jnp.add, total, part), None

        zeros = (jnp.zeros(()), (jnp.zeros_like(head), jnp.zeros_like(bias)))
        return jax.lax.scan(add, zeros, halves)[0]

    with jax.set_mesh(make_mesh(MESHES["mixed"])):
        on_mesh = run(accumulated, *arguments)
    plain_one = run(jax.value_and_grad(plain, (1, 2)), *arguments)
    chex.assert_trees_all_close(on_mesh, plain_one, atol=1e-5, rtol=1e-5)


def test_inside_a_shard_map_of_the_caller():
    def local_sum(hidden, head, bias, weights, targets):
        return jax.lax.psum(fused(hidden, head, bias, weights, targets), "data")

    rows = PartitionSpec("data")
    specs = (rows, PartitionSpec(), PartitionSpec(), rows, rows)
    arguments = inputs(64)  # 40 tokens a device, which 8 would divide again
    with jax.set_mesh(make_mesh(MESHES["data"])):
        value = run(jax.shard_map(local_sum, in_specs=specs, out_specs=PartitionSpec()), *arguments)
    np.testing.assert_allclose(value, run(plain, *arguments), rtol=1e-5)


def test_token_losses_and_their_gradients_equal_the_plain_ones():
    hidden, head, bias, weights, targets = inputs()
    options = {"softcap": 3.0, "label_smoothing": 0.1, "z_loss": 0.05}

    def chunked_losses(hidden, head, bias, targets, **options):
        return losses.linear_token_losses(hidden, head, targets, bias=bias, chunk_size=7, **options)

    def values_and_gradients(token_losses):
        def weighted(*parameters):
            values = token_losses(*parameters, targets, **options)
            return jnp.sum((1 + weights) * jnp.square(1 + values)), values

        return run(jax.value_and_grad(weighted, BY_PARAMETERS, has_aux=True), hidden, head, bias)

    plain_ones = values_and_gradients(plain_losses)
    chex.assert_trees_all_close(values_and_gradients(chunked_losses), plain_ones, atol=2e-5, rtol=1e-5)
    with jax.set_mesh(make_mesh(MESHES["mixed"])):
        chex.assert_trees_all_close(values_and_gradients(chunked_losses), plain_ones, atol=2e-5, rtol=1e-5)


def test_weightless_targets_may_be_anything_and_wrong_ones_are_not_silent():
    hidden, head, bias, _, _ = inputs(1, 4)
    weights = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    targets = jnp.array([[3, -100, 24, -1]])
    value_and_grad = jax.jit(jax.value_and_grad(fused, BY_ALL))
    value, gradients = value_and_grad(hidden, head, bias, weights, targets)
    chex.assert_tree_all_finite((value, gradients))
    np.testing.assert_array_equal(np.any(gradients[0][0], axis=-1), [True, False, False, False])
    assert gradients[3][0, 0] == value
    as_one_more = value_and_grad(hidden, head, bias, weights.at[0, 1].set(1.0), targets.at[0, 1].set(5))
    by_weights = value_and_grad(hidden, head, bias, weights, targets.at[0, 1].set(5))[1][3]
    np.testing.assert_allclose(by_weights[0, 1], as_one_more[0] - value, rtol=1e-5)
    for wrong in (-100, -1, 24, 1000):
        assert np.isnan(value_and_grad(hidden, head, bias, weights, targets.at[0, 0].set(wrong))[0])
    token_losses = run(losses.linear_token_losses, hidden, head, targets)
    np.testing.assert_array_equal(np.isnan(token_losses[0]), [False, False, True, True])
    assert token_losses[0, 1] == 0


def test_a_token_a_bias_of_minus_infinity_rules_out_has_no_part():
    hidden, head, bias, weights, targets = inputs()
    targets = jnp.where(targets == 5, 6, targets)
    ruled_out = bias.at[5].set(-jnp.inf)
    value, gradients = run(jax.value_and_grad(fused, BY_PARAMETERS), hidden, head, ruled_out, weights, targets)
    keep = np.delete(np.arange(24), 5)
    targets = jnp.where(targets > 5, targets - 1, targets)
    without = run(plain, hidden, head[:, keep], bias[keep], weights, targets)
    np.testing.assert_allclose(value, without, rtol=1e-5)
    chex.assert_tree_all_finite(gradients)
    assert not np.any(gradients[1][:, 5])


def test_no_weight_at_all_gives_zero_and_no_gradient():
    hidden, head, bias, weights, targets = inputs(2)
    value_and_grad = jax.value_and_grad(fused, BY_PARAMETERS)
    value, gradients = run(value_and_grad, hidden, head, bias, 0 * weights, targets)
    assert value == 0
    assert not any(np.any(gradient) for gradient in gradients)


def test_gradients_scale_with_what_comes_from_above():
    thrice = run(jax.grad(lambda *a: 3 * fused(*a), BY_ALL), *inputs())
    once = expected("bare")[1]
    chex.assert_trees_all_close(thrice, jax.tree.map(lambda x: 3 * x, once), atol=3e-5, rtol=1e-5)


def test_vmap_over_examples():
    value_and_grad = jax.vmap(jax.value_and_grad(fused), (0, None, None, 0, 0))
    values, gradients = run(value_and_grad, *inputs())
    np.testing.assert_allclose(np.sum(values), expected("bare")[0], rtol=1e-5)
    np.testing.assert_allclose(gradients, expected("bare")[1][0], atol=1e-5)


def test_half_precision_products_accumulate_in_float32():
    hidden, head, _, weights, targets = inputs(64, 8, 8, 16)
    # Chunks of one token: a head gradient kept in bfloat16 between them would lose most of them.
    value_and_grad = jax.value_and_grad(functools.partial(fused, chunk_size=1), (0, 1))
    exact = run(value_and_grad, hidden, head, None, weights, targets)
    half = run(value_and_grad, hidden.astype(jnp.bfloat16), head, None, weights, targets)
    value, (d_hidden, d_head) = half
    assert (value.dtype, d_hidden.dtype, d_head.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(value, exact[0], rtol=2e-3)
    assert np.linalg.norm(d_head - exact[1][1]) < 4e-3 * np.linalg.norm(exact[1][1])


@pytest.mark.parametrize("function", [fused, jax.value_and_grad(fused, (0, 1))], ids=["value", "gradient"])
def test_all_the_logits_never_exist(function):
    num_tokens, vocab = 256, 2048
    arguments = inputs(1, num_tokens, 8, vocab)
    full = 4 * num_tokens * vocab
    plain_one = jax.jit(plain).lower(*arguments).compile()
    assert plain_one.memory_analysis().temp_size_in_bytes >= full
    assert f"[{num_tokens},{vocab}]" in plain_one.as_text().replace("[1,", "[")
    compiled = jax.jit(functools.partial(function, chunk_size=16)).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < full / 4
    assert f"[{num_tokens},{vocab}]" not in compiled.as_text().replace("[1,", "[")


def test_without_a_gradient_there_is_one_product_and_with_it_three():
    for function, num_products in (fused, 1), (jax.grad(fused, (0, 1)), 3):
        assert jax.jit(function).lower(*inputs()).as_text().count("dot_general") == num_products


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": jnp.zeros((24, 16))}, r"table\.T"),
        ({"bias": jnp.zeros(5)}, r"bias \(24,\), not \(5,\)"),
        ({"weights": np.ones(5)}, r"weights of shape \(2, 5\), not \(5,\)"),
        ({"targets": np.ones((2, 4), int)}, r"targets of shape \(2, 5\)"),
        ({"softcap": 0.0}, "softcap=0.0"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    hidden, head, bias, weights, targets = inputs(2)
    arguments = {"head": head, "bias": bias, "weights": weights, "targets": targets, **change}
    with pytest.raises(ValueError, match=message):
        losses.linear_cross_entropy(hidden, **arguments)
