import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import CausalLM, ProfessorForcing
from lmjax.types import make_stream

KEY = jax.random.key(0)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
# Whatever the discriminator's accuracy, it learns and is listened to.
OBJECTIVE = ProfessorForcing(prompt_length=3, free_tokens=4, discriminator_below=1.0, fooling_above=0.0)
SPEC = module_spec(lambda key: OBJECTIVE.build(MODEL, rngs=nnx.Rngs(params=key)))
PARAMS = tiny.random_params(SPEC)
ROWS = tiny.random_rows(17, num_rows=6, packed=False)


@functools.cache
def results():
    """Terms, their gradients by all parameters, and the states they are made of."""
    batch = OBJECTIVE.corrupt(KEY, ROWS, tiny.VOCABULARY)

    def terms(params):
        model = SPEC.bind(params)
        terms = OBJECTIVE.terms(model, batch, None).sums
        return terms, (terms, OBJECTIVE.states(model.model, batch, None))

    gradients, (terms, states) = jax.device_get(jax.jit(jax.jacrev(terms, has_aux=True))(PARAMS))
    return batch, gradients, terms, states


def judged(objective):
    """The terms of the discriminator, and their gradients by its parameters and by the states."""
    batch, _, _, states = results()

    def judge(params, states):
        discriminator = SPEC.bind(PARAMS | {"extras": params}).extras["discriminator"]
        terms = objective.judge(discriminator, states, batch.weights)
        return terms, (terms, discriminator(states))

    by, (terms, scores) = jax.jit(jax.jacrev(judge, (0, 1), has_aux=True))(PARAMS["extras"], states)
    return by, terms, scores


def is_used(tree) -> bool:
    return any(bool(np.any(leaf)) for leaf in jax.tree.leaves(tree))


def test_each_loss_trains_its_own_network():
    _, gradients, *_ = results()
    for term, discriminates in (("loss", False), ("discriminator", True), ("fooling", False)):
        assert is_used(gradients[term]["extras"]) == discriminates
        assert is_used(gradients[term]["model"]) == (not discriminates)
    assert not is_used(gradients["accuracy"])
    assert is_used(gradients["fooling"]["model"]["tail"])


@pytest.mark.parametrize("move_text", [False, True])
def test_terms_are_the_papers_losses_of_the_scores(move_text):
    by, terms, scores = judged(dataclasses.replace(OBJECTIVE, move_text=move_text))
    text, sampled = np.asarray(scores[0::2]), np.asarray(scores[1::2])

    def certainty(scores):
        return np.log1p(np.exp(-scores))

    expected = np.sum(certainty(sampled)) + (np.sum(certainty(-text)) if move_text else 0.0)
    np.testing.assert_allclose(terms["discriminator"], np.sum(certainty(text) + certainty(-sampled)), rtol=1e-4)
    np.testing.assert_allclose(terms["fooling"], expected, rtol=1e-4)
    np.testing.assert_allclose(terms["accuracy"], np.sum((text > 0) * 0.5 + (sampled < 0) * 0.5), rtol=1e-6)
    # The states of text stand still unless they are to move.
    assert is_used(by["fooling"][1][1::2])
    assert is_used(by["fooling"][1][0::2]) == move_text


def test_each_side_rests_by_the_others_accuracy():
    """Losses are reported all the same."""
    _, _, heard, _ = results()
    by, terms, _ = judged(dataclasses.replace(OBJECTIVE, discriminator_below=0.0, fooling_above=1.0))
    for term in ("discriminator", "fooling"):
        assert not is_used(by[term])
        np.testing.assert_allclose(terms[term], heard[term], rtol=1e-4)


def test_states_are_those_of_a_pass_over_text_and_over_samples():
    batch, _, terms, states = results()
    model = SPEC.bind(PARAMS).model
    alone = model(make_stream(batch.extras["piece"], None, "causal")).states_BTD[:, 3:]
    np.testing.assert_allclose(states[0::2], alone, rtol=1e-4, atol=1e-5)
    assert (np.abs(states[1::2] - states[0::2]).max(axis=(1, 2)) > 0.1).all()
    plain = CausalLM().corrupt(KEY, ROWS, tiny.VOCABULARY)
    np.testing.assert_allclose(terms["loss"], CausalLM().terms(model, plain, None).sums["loss"], rtol=1e-5)


def test_documents_without_room_for_a_piece_count_for_nothing():
    rows = tiny.random_rows(17, num_rows=8)
    batch = OBJECTIVE.corrupt(KEY, rows, tiny.VOCABULARY)
    longest = np.array([np.bincount(row[row > 0]).max() for row in np.asarray(rows.segments_BT)])
    assert 0 < (longest >= 7).sum() < 8
    for term in ("discriminator", "fooling", "accuracy"):
        np.testing.assert_array_equal(batch.weights[term], longest >= 7)


def test_reports_accuracy_weighs_fooling_and_couples_the_batch():
    assert ProfessorForcing(weight=0.5).coefficients() == {"fooling": 0.5}
    assert ProfessorForcing().traits.couples_examples
    assert OBJECTIVE.for_evaluation() == CausalLM()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_length": 0}, "objective.prompt_length=0"),
        ({"free_tokens": 0}, "objective.free_tokens=0"),
        ({"weight": -1.0}, "objective.weight=-1.0"),
        ({"temperature": -1.0}, "objective.temperature=-1.0"),
        ({"discriminator_layers": 0}, "objective.discriminator_layers=0"),
        ({"discriminator_below": 99.0}, "objective.discriminator_below=99.0: is a share"),
        ({"fooling_above": -0.5}, "objective.fooling_above=-0.5"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ProfessorForcing(**options)


def test_pieces_longer_than_rows_are_refused():
    with pytest.raises(ValueError, match=r"objective.free_tokens=4 make more than train.sequence_length=6: lower"):
        OBJECTIVE.check(model=MODEL, vocabulary=tiny.VOCABULARY, sequence_length=6)


def test_it_is_evaluated_as_a_causal_model_without_its_discriminator():
    evaluated = OBJECTIVE.for_evaluation()
    batch = evaluated.corrupt(KEY, ROWS, tiny.VOCABULARY)
    model = SPEC.bind(PARAMS)
    whole, plain = (jax.jit(lambda m=m: evaluated.terms(m, batch, None).sums["loss"])() for m in (model, model.model))
    assert float(whole) == float(plain)
