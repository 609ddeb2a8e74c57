"""DPO, IPO and Bradley-Terry against torch's and hand values."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import losses

NAMES = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


def test_dpo_is_torch(oracle):
    for case in oracle("dpo"):
        options = {name: case[name] for name in ("beta", "label_smoothing")}
        arrays = [jnp.array(case[name]) for name in NAMES]
        values = jax.jit(functools.partial(losses.dpo_loss, **options))(*arrays)
        np.testing.assert_allclose(np.mean(values), case["loss"], rtol=1e-6)


def pair(policy_chosen=-1.0, policy_rejected=-4.0, reference_chosen=-2.0, reference_rejected=-3.0):
    return tuple(jnp.array([x]) for x in (policy_chosen, policy_rejected, reference_chosen, reference_rejected))


def test_by_hand():
    # h = (-1 + 2) - (-4 + 3) = 2.
    np.testing.assert_allclose(losses.reward_margins(*pair(), beta=0.5), [1.0])
    sigmoid = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(losses.dpo_loss(*pair(), beta=0.5), [-math.log(sigmoid)], rtol=1e-6)
    smoothed = -0.9 * math.log(sigmoid) - 0.1 * math.log(1 - sigmoid)
    np.testing.assert_allclose(losses.dpo_loss(*pair(), beta=0.5, label_smoothing=0.1), [smoothed], rtol=1e-6)
    np.testing.assert_allclose(losses.dpo_loss(*pair(), beta=0.5, variant="ipo"), [(2 - 1) ** 2], rtol=1e-6)
    np.testing.assert_allclose(losses.dpo_loss(*pair(), beta=0.1, variant="ipo"), [(2 - 5) ** 2], rtol=1e-6)


@pytest.mark.parametrize("variant", ["sigmoid", "ipo"])
def test_only_the_policy_learns_and_towards_the_chosen(variant):
    loss = functools.partial(losses.dpo_loss, beta=0.1, variant=variant)
    chosen, rejected, *reference = jax.jit(jax.grad(lambda *a: jnp.sum(loss(*a)), range(4)))(*pair())
    assert chosen[0] < 0 < rejected[0]
    assert not np.any(reference)


def test_no_overflow_however_far_apart():
    values = losses.dpo_loss(*pair(policy_chosen=-1e6), beta=1.0)
    np.testing.assert_allclose(values, [1e6 - 3], rtol=1e-5)


def test_bradley_terry_by_hand():
    chosen, rejected = jnp.array([2.0, 0.0, 500.0]), jnp.array([1.0, 0.0, -500.0])
    sigmoid = 1 / (1 + math.exp(-1))
    values = losses.bradley_terry_loss(chosen, rejected)
    np.testing.assert_allclose(values, [-math.log(sigmoid), math.log(2), 0.0], rtol=1e-6)
    with_margin = losses.bradley_terry_loss(chosen, rejected, margin=1.0)
    np.testing.assert_allclose(with_margin, [math.log(2), -math.log(1 - sigmoid), 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta=0.0"),
        ({"beta": 1.0, "label_smoothing": 0.5}, "label_smoothing=0.5"),
        ({"beta": 1.0, "label_smoothing": 0.1, "variant": "ipo"}, "IPO has none"),
        ({"beta": 1.0, "variant": "hinge"}, "variant='hinge'.*'sigmoid' or 'ipo'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        losses.dpo_loss(*pair(), **options)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"reference_rejected \(2,\)"):
        losses.dpo_loss(*pair()[:3], jnp.zeros(2), beta=1.0)
    with pytest.raises(ValueError, match=r"rejected_rewards \(2,\)"):
        losses.bradley_terry_loss(jnp.zeros(3), jnp.zeros(2))
