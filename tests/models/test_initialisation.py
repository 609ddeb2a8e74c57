"""Initial weights as the papers have them, and sizes that do not move with the width under muP."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.latent import LatentConfig
from lmjax.models.routing import ExpertsConfig
from lmjax.train.optimizers import SGD, AdamW, build_optimizer, width_factors
from lmjax.types import make_stream

TOKENS = jax.random.randint(jax.random.key(5), (8, 17), 0, 60)
BASE = 32


def spread(params) -> dict[str, float]:
    """Standard deviation of each parameter, by the end of its path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): float(np.std(leaf)) for path, leaf in leaves}


def test_t5s_scheme_is_a_configuration():
    """Raffel et al. 2020, as released: by fan-in, and queries make up for the scale the logits do not have."""
    config = ModelConfig(
        vocab_size=512,
        width=128,
        num_layers=1,
        num_heads=4,
        head_width=16,
        feedforward_width=512,
        activation="relu",
        positions="relative",
        attention_scale=1.0,
        init_std=None,
        embedding_init_std=1.0,
        residual_init="plain",
        execution=ExecutionConfig(scan_layers=False),
    )
    found = spread(jax.jit(tiny.model_spec(config).init)(jax.random.key(0)))
    block = "tail/000"
    expected = {
        "embedding/table_VD": 1.0,
        "relative_RN": 128**-0.5,
        f"{block}/attention/query/weight": (128 * 16) ** -0.5,
        f"{block}/attention/key/weight": 128**-0.5,
        f"{block}/attention/value/weight": 128**-0.5,
        f"{block}/attention/out/weight": (4 * 16) ** -0.5,
        f"{block}/feedforward/up/weight": 128**-0.5,
        f"{block}/feedforward/down/weight": 512**-0.5,
    }
    for name, std in expected.items():
        np.testing.assert_allclose(found[name], std, rtol=0.1 if name == "relative_RN" else 0.03, err_msg=name)


def mixed(width: int, width_base: int | None, *, is_latent: bool = False) -> ModelConfig:
    latent = LatentConfig(rank=width // 2, query_rank=width, rope_width=width // 4) if is_latent else LatentConfig()
    return ModelConfig(
        latent=latent,
        vocab_size=64,
        width=width,
        num_layers=1,
        num_heads=2,
        feedforward_width=2 * width,
        activation="gelu",
        width_base=width_base,
        experts=ExpertsConfig(number=4, capacity_factor=2.0),
        init_std=0.1,
        execution=ExecutionConfig(scan_layers=False, remat="none"),
    )


def sizes(width: int, width_base: int | None, *, is_latent: bool = False, steps: int = 6) -> dict[str, np.ndarray]:
    """Mean magnitudes at each step of training at one learning rate: of logits, hidden states and the router's."""
    config = mixed(width, width_base, is_latent=is_latent)
    spec = tiny.model_spec(config)
    optimizer = build_optimizer(
        AdamW(learning_rate=0.02, weight_decay=0.0),
        schedule=lambda step: 1.0,
        kinds=spec.kinds,
        axes=spec.axes,
        width_ratio=config.width_ratio,
    )
    stream = make_stream(TOKENS[:, :-1], None, "causal")

    def loss(params):
        model = spec.bind(params)
        hidden = model.run(model.embed(stream), stream.positions_BT, stream.mask, final_norm=False)
        x_BTD, routing = hidden.states_BTD, hidden.routing
        logits_BTV = model.logits(model.normalised(x_BTD))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, TOKENS[:, 1:])
        shown = {"logits": logits_BTV, "residual": x_BTD, "router": jnp.sqrt(routing.router_z_B) - np.log(4)}
        return losses.mean(), jax.tree.map(lambda array: jnp.abs(array).mean(), shown)

    def advance(carry, _):
        params, state = carry
        grads, shown = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), shown

    @jax.jit
    def train(key):
        params = spec.init(key)
        return jax.lax.scan(advance, (params, optimizer.init(params)), None, length=steps)[1]

    return jax.tree.map(np.asarray, train(jax.random.key(0)))


@pytest.mark.long
@pytest.mark.parametrize("is_latent", [False, True])
def test_coordinates_do_not_grow_with_the_width(is_latent):
    """The coordinate check of Yang et al. 2022, appendix D.1: eight times the width, the same sizes at every step."""
    narrow, wide, usual = (
        sizes(width, base, is_latent=is_latent) for width, base in ((BASE, BASE), (8 * BASE, BASE), (8 * BASE, None))
    )
    for name, values in narrow.items():
        assert np.all(wide[name][1:] < 2.0 * values[1:]), name
        assert wide[name][-1] > 0.3 * values[-1], name
    assert usual["logits"][-1] > 3 * narrow["logits"][-1]
    assert usual["residual"][-1] > 3 * narrow["residual"][-1]


def test_what_is_scaled_with_the_width():
    config = dataclasses.replace(mixed(128, BASE), tie_embeddings=False)
    spec = tiny.model_spec(config)
    found = spread(jax.jit(spec.init)(jax.random.key(0)))
    factors = width_factors(spec.kinds, spec.axes, config.width_ratio)
    factors = dict(zip(found, jax.tree.leaves(factors), strict=True))
    for name, (std, factor) in {
        "embedding/table_VD": (0.1, 1.0),
        "head_weight_DV": (0.1, 1.0),
        "tail/000/attention/query/weight": (0.05, 1 / 4),
        "tail/000/experts/up/weight": (0.05, 1 / 4),
        "tail/000/experts/down/weight": (0.05 / 2**0.5, 1 / 4),
        "tail/000/experts/router/weight": (0.1 / 4, 1 / 4),
        "final_norm/scale": (0.0, 1.0),
    }.items():
        np.testing.assert_allclose(found[name], std, rtol=0.1, err_msg=name)
        assert factors[name] == factor, name
    assert config.logit_factor == 1 / 64
    base = mixed(BASE, BASE)
    assert (base.width_ratio, base.matrix_std, base.logit_factor) == (1.0, 0.1, 1 / 16)


def test_an_optimizer_without_a_rule_for_the_width_is_refused():
    with pytest.raises(ValueError, match=r"optimizer=SGD: model.width_base scales .* AdamW and Lion only"):
        build_optimizer(SGD(), schedule=lambda _: 1.0, kinds={}, axes={}, width_ratio=2.0)
