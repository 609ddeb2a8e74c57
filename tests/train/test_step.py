import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lmjax.losses import causal_lm_loss
from lmjax.objectives import CausalLM, MaskedLM
from lmjax.parallel.mesh import MeshConfig
from lmjax.train.optimizers import SGD, AdamW
from lmjax.train.validate import means, validate

MODEL = dataclasses.replace(tiny.MODEL, num_kv_heads=2, num_heads=4, head_width=8)
LAYOUTS = {
    "data=8": (MeshConfig(data=8), 8, 1),
    "fsdp=8": (MeshConfig(fsdp=8), 8, 1),
    "data=2 fsdp=2 tensor=2": (MeshConfig(data=2, fsdp=2, tensor=2), 8, 1),
    "4 microbatches": (MeshConfig(), 1, 4),
    "fsdp=2, 4 microbatches": (MeshConfig(fsdp=2), 2, 4),
}


def test_same_losses_on_every_layout():
    """Ten steps on ragged packed rows: the same to 1e-5 on any devices and in any parts, from the first weights on."""
    reference = tiny.train_losses(tiny.learner(model=MODEL), steps=10)
    assert reference[-1] != pytest.approx(reference[0], abs=1e-2)
    for name, (mesh, num_devices, microbatches) in LAYOUTS.items():
        built = tiny.learner(model=MODEL, mesh=mesh, num_devices=num_devices, microbatches=microbatches)
        losses = tiny.train_losses(built, steps=10)
        np.testing.assert_allclose(losses, reference, atol=1e-5, err_msg=name)


def test_gradient_is_that_of_the_mean_over_the_whole_batch():
    """One SGD step against the gradient of a plain loss over all scored tokens, split in ragged microbatches."""
    optimizer = SGD(learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=None)
    built = tiny.learner(CausalLM(), optimizer=optimizer, microbatches=4)
    rows = tiny.random_rows(17)
    state = built.init(0)
    before = jax.tree.map(np.asarray, state.params)

    def plain(params):
        batch = built.objective.corrupt(None, rows, tiny.VOCABULARY)
        model = built.spec.bind(params)
        logits = model.logits(model(batch.inputs).states_BTD)
        labels = jnp.where(batch.weights["loss"] > 0, batch.targets_BP, -100)
        shifted = jnp.concatenate([jnp.full_like(labels[:, :1], -100), labels], axis=1)
        return causal_lm_loss(jnp.concatenate([logits, logits[:, -1:]], axis=1), shifted)

    loss, grads = jax.jit(jax.value_and_grad(plain))(before)
    state, metrics = built.train_step(state, jax.device_put(rows, built.row_sharding))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    jax.tree.map(
        lambda old, new, grad: np.testing.assert_allclose(old - new, grad, atol=1e-5), before, state.params, grads
    )


def test_clipping_bounds_the_update_and_reports_the_unclipped_norm():
    optimizer = SGD(learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=1e-3)
    built = tiny.learner(optimizer=optimizer)
    state = built.init(0)
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = built.train_step(state, jax.device_put(tiny.random_rows(17), built.row_sharding))
    moved = optax.tree.norm(jax.tree.map(lambda old, new: old - new, before, state.params))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-2)
    assert metrics["grad_norm"] > 0.1


def test_step_compiles_once_and_consumes_its_state():
    built = tiny.learner()
    state = built.init(0)
    for seed in range(3):
        old = state
        state, _ = built.train_step(state, jax.device_put(tiny.random_rows(17, seed=seed), built.row_sharding))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    assert built.train_step._cache_size() == 1
    assert int(state.step) == 3


def test_step_moves_nothing_between_host_and_device():
    built = tiny.learner(MaskedLM())
    state = built.init(0)
    rows = jax.device_put(tiny.random_rows(16), built.row_sharding)
    with jax.transfer_guard("disallow"):
        state, _ = built.train_step(state, rows)
        state, _ = built.train_step(state, rows)
    assert int(state.step) == 2


def test_state_is_born_sharded_and_equal_to_one_device():
    sharded = tiny.learner(model=MODEL, mesh=MeshConfig(fsdp=4, tensor=2), num_devices=8)
    state = sharded.init(3)
    up = state.params["model"]["stacks"]["000"]["feedforward"]["up"]["weight"]
    assert up.sharding.shard_shape(up.shape) == (2, 16 // 4, 32 // 2)
    moment = jax.tree.leaves(state.opt_state)
    largest = max(moment, key=lambda leaf: leaf.size)
    assert largest.sharding.shard_shape(largest.shape) != largest.shape
    alone = tiny.learner(model=MODEL).init(3)
    # To the last bit with jax 0.10; jax 0.12 compiles the normal distribution otherwise for other shards.
    chex.assert_trees_all_close(jax.device_get(alone.params), jax.device_get(state.params), rtol=1e-6)


def test_average_of_parameters_follows_its_formula():
    built = tiny.learner(ema_decay=0.5)
    state = built.init(0)
    average = jax.tree.map(np.asarray, state.ema)
    for seed in range(3):
        state, _ = built.train_step(state, jax.device_put(tiny.random_rows(17, seed=seed), built.row_sharding))
        kept = min(0.5, (1 + seed) / (10 + seed))
        average = jax.tree.map(
            lambda old, new, kept=kept: kept * old + (1 - kept) * np.asarray(new), average, state.params
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), average, state.ema)


def test_corruption_differs_between_steps_and_repeats_with_the_seed():
    def losses(seed):
        built = tiny.learner(MaskedLM(), optimizer=AdamW(learning_rate=1e-12))
        state = built.init(seed)
        rows = jax.device_put(tiny.random_rows(16), built.row_sharding)
        result = []
        for _ in range(3):
            state, metrics = built.train_step(state, rows)
            result.append(float(metrics["loss"]))
        return result

    first = losses(0)
    assert len(set(first)) == 3
    assert losses(0) == first


def test_validation_adds_up_over_unequal_batches():
    """Sums over batches give the corpus mean; a mean of batch means would be off."""
    built = tiny.learner()
    params = tiny.random_params(built.spec)
    all_rows = tiny.random_rows(17, num_rows=8)
    parts = [jax.tree.map(lambda leaf, part=part: leaf[part], all_rows) for part in (slice(0, 2), slice(2, 8))]
    whole, split = validate(built, params, [all_rows]), validate(built, params, parts)
    assert whole["loss"] == pytest.approx(split["loss"], rel=1e-5)
    assert whole["perplexity"] == pytest.approx(np.exp(whole["loss"]), rel=1e-5)
    # One byte a text token: bits per byte is the loss in bits.
    assert whole["bits_per_byte"] == pytest.approx(whole["loss"] / np.log(2), rel=1e-5)
    of_parts = [validate(built, params, [part])["loss"] for part in parts]
    assert np.mean(of_parts) != pytest.approx(whole["loss"], rel=1e-4)


def test_means_of_several_terms_are_named_by_term():
    totals = {"mlm": 6.0, "mlm/weight": 2.0, "nsp": 1.0, "nsp/weight": 4.0}
    assert means(totals) == {"mlm/loss": 3.0, "nsp/loss": 0.25}
    assert means(totals, measures={"nsp"}) == {"mlm/loss": 3.0, "nsp": 0.25}
