import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.models.execution import ExecutionConfig
from lmjax.models.tied import read_by_heads, tied_tables
from lmjax.objectives import DPO, CausalLM, ReplacedToken


def test_the_two_uses_of_a_table_have_gradients_apart_that_add_up():
    built = tiny.learner(CausalLM())
    params = jax.jit(built.spec.init)(jax.random.key(0))
    rows = tiny.random_rows(8)
    batch = built.objective.corrupt(None, rows, tiny.VOCABULARY)

    def loss(params, tables):
        model = built.spec.bind(params)
        read_by_heads(model, tables)
        logits = model.logits(model(batch.inputs).states_BTD)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets_BP[..., None], axis=-1)
        return -jnp.mean(chosen)

    (table_VD,) = tied_tables(built.spec.bind(params))
    whole = jax.jit(jax.grad(loss))(params, [])
    of_lookup, (of_head_VD,) = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, [table_VD])
    of_lookup_VD = of_lookup["model"]["embedding"]["table_VD"]
    np.testing.assert_allclose(of_lookup_VD + of_head_VD, whole["model"]["embedding"]["table_VD"], atol=1e-6)
    # The lookup moves the rows of the tokens that are read, the head those of all.
    is_read_V = np.isin(np.arange(len(table_VD)), batch.inputs.tokens_BT)
    assert 0 < is_read_V.sum() < len(table_VD)
    np.testing.assert_array_equal(np.any(of_lookup_VD != 0, axis=1), is_read_V)
    assert np.all(np.any(of_head_VD != 0, axis=1))


@pytest.mark.parametrize(
    ("objective", "model", "tables"),
    [
        (CausalLM(), {"tie_embeddings": False}, 0),
        (CausalLM(), {}, 1),
        (CausalLM(), {"execution": ExecutionConfig(table_gradient="microbatch")}, 0),
        (DPO(), {}, 1),
        (ReplacedToken(generator_ratio=0.5), {}, 1),
    ],
)
def test_only_tables_that_a_trained_head_shares_are_apart(objective, model, tables):
    """DPO's frozen copy of the model has a tied head as well; ELECTRA's generator borrows the discriminator's table."""
    built = tiny.learner(objective, model=dataclasses.replace(tiny.MODEL, **model))
    params = jax.eval_shape(built.spec.init, jax.random.key(0))
    assert len(jax.eval_shape(lambda params: tied_tables(built.spec.bind(params)), params)) == tables
