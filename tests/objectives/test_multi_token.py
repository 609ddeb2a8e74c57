import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import CausalLM, MultiTokenLM
from lmjax.objectives.multi_token import run_head, run_trunk
from lmjax.types import Rows, make_stream

KEY = jax.random.key(0)
# The last layer, which is the first head, has a window of its own.
MODEL = dataclasses.replace(tiny.MODEL, windows=(None, 3), execution=ExecutionConfig(scan_layers=False, remat="none"))


@functools.cache
def spec_of(num_heads: int):
    return module_spec(lambda key: MultiTokenLM(num_heads=num_heads).build(MODEL, rngs=nnx.Rngs(params=key)))


@functools.cache
def params_of(num_heads: int):
    return tiny.random_params(spec_of(num_heads), scale=0.5)


def head_of(model, index):
    """The layer of a head: the model's last, or one of the further ones."""
    if index == 0:
        return model.model.tail[-1]
    return jax.tree.map(lambda leaf: leaf[index - 1], model.extras["further_heads"])


def test_each_head_has_its_own_targets_and_none_crosses_a_document():
    rows = Rows(
        tokens_BT=jnp.array([[1, 2, 3, 4, 5, 6, 0, 0]]),
        segments_BT=jnp.array([[1, 1, 1, 1, 2, 2, 0, 0]]),
        weights_BT=jnp.array([[1.0, 1, 1, 0.5, 1, 1, 1, 1]]),
    )
    batch = MultiTokenLM(num_heads=3).corrupt(KEY, rows, tiny.VOCABULARY)
    np.testing.assert_array_equal(batch.inputs.tokens_BT, [[1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(batch.targets_BP, [[2, 3, 4, 5, 6]])
    of_heads = np.moveaxis(batch.extras["targets_BTK"][0], -1, 0)
    np.testing.assert_array_equal(of_heads, [[2, 3, 4, 5, 6], [3, 4, 5, 6, 0], [4, 5, 6, 0, 0]])
    np.testing.assert_array_equal(batch.weights["loss"], [[1, 1, 0.5, 0, 1]])
    np.testing.assert_array_equal(batch.weights["token_2"], [[1, 0.5, 0, 0, 0]])
    np.testing.assert_array_equal(batch.weights["token_3"], [[0.5, 0, 0, 0, 0]])


def test_terms_are_the_cross_entropies_of_the_heads():
    objective = MultiTokenLM(num_heads=3)
    batch = objective.corrupt(KEY, tiny.random_rows(11, num_rows=4), tiny.VOCABULARY)

    @jax.jit
    def both(params):
        model = spec_of(3).bind(params)
        trunk = run_trunk(model.model, batch.inputs).states_BTD
        targets = jnp.moveaxis(batch.extras["targets_BTK"], -1, 0)
        expected = []
        for index, (targets_BT, weights_BT) in enumerate(zip(targets, batch.weights.values(), strict=True)):
            hidden = run_head(model.model, head_of(model, index), trunk, batch.inputs)
            log_p = jax.nn.log_softmax(model.model.logits(hidden.states_BTD))
            expected.append(-jnp.sum(weights_BT * jnp.take_along_axis(log_p, targets_BT[..., None], axis=-1)[..., 0]))
        return objective.terms(model, batch, None).sums, expected

    terms, expected = both(params_of(3))
    assert list(terms) == ["loss", "token_2", "token_3"]
    np.testing.assert_allclose(list(terms.values()), expected, rtol=1e-5)
    assert len({round(float(value), 3) for value in expected}) == 3


def test_no_head_sees_what_it_is_to_name():
    """Changing a token changes every head from its place on, and none before it."""
    model = spec_of(3).bind(params_of(3))
    stream = make_stream(jnp.arange(8, dtype=jnp.int32)[None, :], None, "causal")

    @jax.jit
    def states(tokens_BT):
        changed = dataclasses.replace(stream, tokens_BT=tokens_BT)
        trunk = run_trunk(model.model, changed).states_BTD
        return jnp.stack([run_head(model.model, head_of(model, k), trunk, changed).states_BTD for k in range(3)])

    before, after = states(stream.tokens_BT), states(stream.tokens_BT.at[0, 5].set(40))
    np.testing.assert_array_equal(before[:, :, :5], after[:, :, :5])
    assert (before[:, :, 5] != after[:, :, 5]).any(axis=-1).all()
    for one, other in itertools.combinations(before, 2):
        assert np.abs(one - other).max() > 0.1


def test_one_head_is_a_causal_model_in_loss_and_in_decoding():
    plain_spec = tiny.model_spec(MODEL)
    rows = tiny.random_rows(9, num_rows=4)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def loss(objective, spec, params):
        return objective.terms(spec.bind(params), objective.corrupt(KEY, rows, tiny.VOCABULARY), None).sums["loss"]

    multi = loss(MultiTokenLM(num_heads=1), spec_of(1), params_of(1))
    np.testing.assert_allclose(multi, loss(CausalLM(), plain_spec, params_of(1)), rtol=1e-5)
    continue_text = functools.partial(
        generate,
        prompts=[[1, 2, 3], [4]],
        vocabulary=tiny.VOCABULARY,
        max_new_tokens=8,
        sampling=SamplingConfig(temperature=0.0),
    )
    assert continue_text(spec_of(1), params_of(1)) == continue_text(plain_spec, params_of(1))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"objective.num_heads=0: must be at least 1"):
        MultiTokenLM(num_heads=0)
    check = functools.partial(MultiTokenLM(num_heads=4).check, vocabulary=tiny.VOCABULARY)
    with pytest.raises(ValueError, match=r"model.num_layers=1: .*at least 2"):
        check(model=dataclasses.replace(tiny.MODEL, num_layers=1), sequence_length=16)
    with pytest.raises(ValueError, match="model.share_layers=True: each head of MultiTokenLM is a layer of its own"):
        check(model=dataclasses.replace(tiny.MODEL, share_layers=True), sequence_length=16)
    with pytest.raises(ValueError, match=r"objective.num_heads=4 is more than train.sequence_length=3"):
        check(model=tiny.MODEL, sequence_length=3)
