"""The fused head and loss equals the plain one, on any mesh, and never holds all the logits."""

import functools

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


def inputs(batch=8, length=5, width=16, vocab=24, seed=0):
    keys = jax.random.split(jax.random.key(seed), 5)
    hidden = jax.random.normal(keys[0], (batch, length, width))
    head = jax.random.normal(keys[1], (width, vocab)) / 2
    targets = jax.random.randint(keys[2], (batch, length), 0, vocab)
    weights = jax.random.uniform(keys[3], (batch, length)) * (jnp.arange(length) % 3 != 1)[None, :]
    targets = jnp.where(weights == 0, losses.IGNORE_INDEX, targets)
    bias = jax.random.normal(keys[4], (vocab,))
    return hidden, head, bias, weights, targets


def plain(hidden, head, bias, weights, targets, *, softcap=None, **options):
    logits = jnp.einsum("...d,dv->...v", hidden, head) + bias[None, None, :]
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return jnp.sum(weights * losses.cross_entropy(logits, targets, **options))


def fused(hidden, head, bias, weights, targets, **options):
    options = {"chunk_size": 7, **options}
    return losses.linear_cross_entropy(hidden, head, targets, weights, bias=bias, **options)


@functools.cache
def expected(name):
    return jax.jit(jax.value_and_grad(functools.partial(plain, **OPTIONS[name]), (0, 1, 2, 3)))(*inputs())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("transform", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_equals_the_plain_loss_in_value_and_every_gradient(name, transform):
    function = functools.partial(fused, **OPTIONS[name])
    value, gradients = transform(jax.value_and_grad(function, (0, 1, 2, 3)))(*inputs())
    chex.assert_trees_all_close((value, gradients), expected(name), atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(transform(function)(*inputs()), value, rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 8, 40, 1000, None])
def test_the_chunk_size_does_not_matter(chunk_size):
    value_and_grad = jax.jit(
        jax.value_and_grad(functools.partial(fused, chunk_size=chunk_size), (0, 1, 2, 3))
    )
    chex.assert_trees_all_close(value_and_grad(*inputs()), expected("bare"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mesh_name", MESHES)
@pytest.mark.parametrize("name", ["bare", "all"])
def test_equals_the_plain_loss_on_a_mesh(mesh_name, name):
    mesh = make_mesh(MESHES[mesh_name])
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    hidden, head, bias, weights, targets = inputs()
    rows = ("data", "fsdp")
    arguments = (
        place(hidden, rows), place(head, "fsdp", "tensor"), place(bias, "tensor"), place(weights, rows), place(targets, rows)
    )  # fmt: skip
    with jax.set_mesh(mesh):
        function = jax.jit(
            jax.value_and_grad(functools.partial(fused, chunk_size=2, **OPTIONS[name]), (0, 1, 2, 3))
        )
        value, gradients = function(*arguments)
    assert gradients[1].sharding.is_equivalent_to(arguments[1].sharding, 2)
    chex.assert_trees_all_close(jax.device_get((value, gradients)), expected(name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(3, 5, 16, 24), (8, 5, 16, 23), (8, 3, 15, 24)], ids=["batch", "vocab", "width"]
)
def test_what_the_mesh_does_not_divide_is_not_split(shape):
    batch, length, width, vocab = shape
    arguments = inputs(batch, length, width, vocab)
    expected = jax.value_and_grad(plain, (0, 1, 2))(*arguments)
    with jax.set_mesh(make_mesh(MESHES["mixed"])):
        value_and_grad = jax.jit(jax.value_and_grad(fused, (0, 1, 2)))(*arguments)
    chex.assert_trees_all_close(
        jax.device_get(value_and_grad), jax.device_get(expected), atol=1e-5, rtol=1e-5
    )


def while_bodies(text):
    """The computations of an HLO module that a loop runs."""
    computations = {
        block.split("(")[0].split("%")[-1].strip(): block for block in text.split("\n\n") if "{" in block
    }
    names = {
        line.split("body=%")[1].split(",")[0].split("\n")[0].strip()
        for line in text.split("\n")
        if "body=%" in line
    }
    return [computations[name] for name in names]


def test_inside_a_microbatch_scan_the_head_is_reduced_after_the_chunks():
    mesh = make_mesh(MESHES["data"])
    with jax.set_mesh(mesh):
        value_and_grad = jax.jit(jax.value_and_grad(functools.partial(fused, chunk_size=1), (0, 1, 2)))
        compiled = value_and_grad.lower(*inputs()).compile()
    assert "all-reduce" in compiled.as_text()
    bodies = while_bodies(compiled.as_text())
    assert bodies
    assert not any("all-reduce" in body for body in bodies)

    def accumulated(*arguments):
        hidden, head, bias, weights, targets = arguments
        halves = [x.reshape(2, -1, *x.shape[1:]) for x in (hidden, weights, targets)]

        def add(total, half):
            part = jax.value_and_grad(fused, (1, 2))(half[0], head, bias, half[1], half[2])
            return jax.tree.map(jnp.add, total, part), None

        zeros = (jnp.zeros(()), (jnp.zeros_like(head), jnp.zeros_like(bias)))
        return jax.lax.scan(add, zeros, halves)[0]

    arguments = inputs(batch=16)
    with jax.set_mesh(mesh):
        on_mesh = jax.device_get(jax.jit(accumulated)(*arguments))
    chex.assert_trees_all_close(on_mesh, jax.value_and_grad(plain, (1, 2))(*arguments), atol=1e-5, rtol=1e-5)


def test_token_losses_and_their_gradients_equal_the_plain_ones():
    hidden, head, bias, weights, targets = inputs()
    options = {"softcap": 3.0, "label_smoothing": 0.1, "z_loss": 0.05}

    def weighted(token_losses, hidden, head, bias):
        return jnp.sum(weights * jnp.square(token_losses(hidden, head, bias)))

    def chunked(hidden, head, bias):
        return losses.linear_token_losses(hidden, head, targets, bias=bias, chunk_size=7, **options)

    def plain_losses(hidden, head, bias):
        logits = 3 * jnp.tanh((hidden @ head + bias[None, None, :]) / 3)
        return losses.cross_entropy(logits, targets, label_smoothing=0.1, z_loss=0.05)

    np.testing.assert_allclose(chunked(hidden, head, bias), plain_losses(hidden, head, bias), atol=1e-5)
    gradient = jax.jit(jax.grad(functools.partial(weighted, chunked), (0, 1, 2)))
    expected = jax.grad(functools.partial(weighted, plain_losses), (0, 1, 2))(hidden, head, bias)
    chex.assert_trees_all_close(gradient(hidden, head, bias), expected, atol=2e-5, rtol=1e-5)
    with jax.set_mesh(make_mesh(MESHES["mixed"])):
        gradient = jax.jit(jax.grad(functools.partial(weighted, chunked), (0, 1, 2)))(hidden, head, bias)
    chex.assert_trees_all_close(jax.device_get(gradient), jax.device_get(expected), atol=2e-5, rtol=1e-5)


def test_weightless_targets_may_be_anything_and_wrong_ones_are_not_silent():
    hidden, head, bias, _, _ = inputs(batch=1, length=4)
    weights = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    value_and_grad = jax.value_and_grad(fused, (0, 1, 2, 3))
    value, gradients = value_and_grad(hidden, head, bias, weights, jnp.array([[3, -100, 24, -1]]))
    chex.assert_tree_all_finite((value, gradients))
    np.testing.assert_array_equal(np.any(gradients[0][0], axis=-1), [True, False, False, False])
    assert gradients[3][0, 0] == value
    for wrong in (-100, -1, 24, 1000):
        assert np.isnan(fused(hidden, head, bias, weights, jnp.array([[wrong, 0, 0, 0]])))
    token_losses = losses.linear_token_losses(hidden, head, np.array([[3, -100, 24, -1]]))
    np.testing.assert_array_equal(np.isnan(token_losses[0]), [False, False, True, True])
    assert token_losses[0, 1] == 0


def test_no_weight_at_all_gives_zero_and_no_gradient():
    hidden, head, bias, weights, targets = inputs(batch=2)
    value, gradients = jax.value_and_grad(fused, (0, 1, 2))(hidden, head, bias, 0 * weights, targets)
    assert value == 0
    assert not any(np.any(gradient) for gradient in gradients)


def test_gradients_scale_with_what_comes_from_above():
    arguments = inputs(batch=2)
    once = jax.grad(fused, (0, 1, 2, 3))(*arguments)
    thrice = jax.grad(lambda *a: 3 * fused(*a), (0, 1, 2, 3))(*arguments)
    chex.assert_trees_all_close(thrice, jax.tree.map(lambda x: 3 * x, once), rtol=1e-5)


def test_vmap_over_examples():
    hidden, head, bias, weights, targets = inputs(batch=3)
    each = jax.vmap(jax.value_and_grad(fused), (0, None, None, 0, 0))(hidden, head, bias, weights, targets)
    value, gradient = jax.value_and_grad(fused)(hidden, head, bias, weights, targets)
    np.testing.assert_allclose(jnp.sum(each[0]), value, rtol=1e-5)
    np.testing.assert_allclose(each[1], gradient, atol=1e-6)


def test_half_precision_products_accumulate_in_float32():
    hidden, head, _, weights, targets = inputs(batch=64, length=8, width=8, vocab=16)
    # Chunks of one token: a head gradient kept in bfloat16 between them would lose most of them.
    function = functools.partial(fused, chunk_size=1)
    exact = jax.value_and_grad(function, (0, 1))(hidden, head, None, weights, targets)
    value, (d_hidden, d_head) = jax.value_and_grad(function, (0, 1))(
        hidden.astype(jnp.bfloat16), head, None, weights, targets
    )
    assert d_hidden.dtype == jnp.bfloat16
    assert d_head.dtype == jnp.float32
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact[0], rtol=2e-3)
    assert jnp.linalg.norm(d_head - exact[1][1]) < 4e-3 * jnp.linalg.norm(exact[1][1])


@pytest.mark.parametrize("function", [fused, jax.value_and_grad(fused, (0, 1))], ids=["value", "gradient"])
def test_all_the_logits_never_exist(function):
    num_tokens, vocab = 256, 2048
    arguments = inputs(batch=1, length=num_tokens, width=8, vocab=vocab)
    full = 4 * num_tokens * vocab
    assert jax.jit(plain).lower(*arguments).compile().memory_analysis().temp_size_in_bytes >= full
    compiled = jax.jit(functools.partial(function, chunk_size=16)).lower(*arguments).compile()
    assert f"[{num_tokens},{vocab}]" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < full / 4


def test_without_a_gradient_there_is_one_product():
    arguments = inputs(batch=2)
    count = lambda function: str(jax.make_jaxpr(function)(*arguments)).count("dot_general")
    assert count(jax.grad(fused, (0, 1))) == 3
    text = jax.jit(fused).lower(*arguments).as_text()
    assert text.count("dot_general") == 1


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
    hidden, head, bias, weights, targets = inputs(batch=2)
    arguments = {"head": head, "bias": bias, "weights": weights, "targets": targets, **change}
    with pytest.raises(ValueError, match=message):
        losses.linear_cross_entropy(hidden, **arguments)
