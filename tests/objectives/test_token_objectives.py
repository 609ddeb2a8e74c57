import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.choice import Choice
from lmjax.losses import cross_entropy
from lmjax.objectives import CausalLM, MaskedLM, Objective, PrefixLM
from lmjax.objectives.parts.scored_positions import scored_positions, slots
from lmjax.objectives.parts.token_objective import next_token_targets
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import IGNORE_INDEX, Rows

KEY = jax.random.key(0)
OBJECTIVES = [CausalLM(), MaskedLM(), PrefixLM(), PrefixLM(loss_on="all")]


def test_causal_targets_never_cross_documents_and_padding_is_not_predicted():
    rows = Rows(
        tokens_BT=jnp.array([[5, 6, 7, 8, 9, 0]]),
        segments_BT=jnp.array([[1, 1, 1, 2, 2, 0]]),
    )
    batch = CausalLM().corrupt(KEY, rows, tiny.VOCABULARY)
    np.testing.assert_array_equal(batch.inputs.tokens_BT, [[5, 6, 7, 8, 9]])
    np.testing.assert_array_equal(batch.targets_BP, [[6, 7, 8, 9, 0]])
    np.testing.assert_array_equal(batch.weights["loss"], [[1, 1, 0, 1, 0]])
    np.testing.assert_array_equal(batch.inputs.positions_BT, [[0, 1, 2, 0, 1]])


def test_data_weights_follow_the_target_token():
    rows = Rows(tokens_BT=jnp.array([[5, 6, 7]]), weights_BT=jnp.array([[0.25, 0.0, 2.0]]))
    _, _, _, weights = next_token_targets(rows)
    np.testing.assert_array_equal(weights, [[0.0, 2.0]])


def test_by_sequence_each_document_weighs_the_mean_of_its_tokens_weights():
    rows = Rows(
        tokens_BT=jnp.array([[5, 6, 7, 8, 9, 3, 0]]),
        segments_BT=jnp.array([[1, 1, 1, 1, 2, 2, 0]]),
        weights_BT=jnp.array([[1.0, 0.0, 1.0, 3.0, 1.0, 0.5, 1.0]]),
    )
    objective = CausalLM(normalization="sequence")
    weights = objective.corrupt(KEY, rows, tiny.VOCABULARY).weights["loss"]
    np.testing.assert_array_equal(weights, [[0, 0.5, 1.5, 0, 0.5, 0]])
    # Unweighted documents weigh 1, however long, those of a single token nothing; a stream is one document a row.
    packed = dataclasses.replace(rows, weights_BT=None, segments_BT=jnp.array([[1, 1, 1, 1, 2, 3, 3]]))
    weights = objective.corrupt(KEY, packed, tiny.VOCABULARY).weights["loss"]
    np.testing.assert_allclose(weights, [[1 / 3, 1 / 3, 1 / 3, 0, 0, 1]], rtol=1e-6)
    stream = objective.corrupt(KEY, Rows(tokens_BT=rows.tokens_BT), tiny.VOCABULARY).weights["loss"]
    np.testing.assert_allclose(stream, np.full((1, 6), 1 / 6), rtol=1e-6)
    assert objective.for_evaluation() == CausalLM()


@pytest.mark.parametrize("loss_on", ["suffix", "all"])
def test_prefix_scores_exactly_what_is_not_seen_and_shows_exactly_the_prefix(loss_on):
    rows = tiny.random_rows(33, packed=True)
    batch = PrefixLM(loss_on=loss_on).corrupt(KEY, rows, tiny.VOCABULARY)
    visible = np.asarray(batch.inputs.mask.dense(32))
    weights, segments = np.asarray(batch.weights["loss"]), np.asarray(rows.segments_BT)
    for b, t in zip(*np.nonzero(weights), strict=True):
        # What is predicted at t is the token at t + 1: nobody who predicts may see it.
        assert not visible[b, t, t + 1 :].any()
        assert segments[b, t] == segments[b, t + 1] > 0
    inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    for b, t in zip(*np.nonzero((weights == 0) & inside), strict=True):
        # Inside the prefix the next token is visible, so it is not scored.
        assert visible[b, t, t + 1]


def test_a_prefix_lm_of_all_reads_half_of_the_documents_without_a_prefix_and_scores_them_whole():
    rows = Rows(tokens_BT=jnp.zeros((512, 33), jnp.int32), segments_BT=jnp.asarray(tiny.segments([[20, 13]] * 512, 33)))
    objectives = (PrefixLM(loss_on="all"), CausalLM())
    batch, plain = (jax.jit(functools.partial(o.corrupt, vocabulary=tiny.VOCABULARY))(KEY, rows) for o in objectives)
    weights, ends = np.asarray(batch.weights["loss"]), np.asarray(batch.inputs.mask.end_BT)
    is_causal = []
    for there in (slice(0, 20), slice(20, 32)):
        whole = (weights[:, there] == np.asarray(plain.weights["loss"])[:, there]).all(axis=1)
        causal = (ends[:, there] == np.asarray(plain.inputs.mask.end_BT)[:, there]).all(axis=1)
        # A prefix of one token is causal too, and then everything is scored.
        np.testing.assert_array_equal(whole, causal)
        is_causal.append(causal)
    for causal, choices in zip(is_causal, (19, 11), strict=True):
        share = 0.5 + 0.5 / choices
        assert abs(causal.mean() - share) < 3 * np.sqrt(share * (1 - share) / 512)
    assert abs((is_causal[0] == is_causal[1]).mean() - 0.5) < 0.08
    assert PrefixLM(loss_on="all").for_evaluation() == PrefixLM()


def test_masked_positions_are_gathered_in_order_with_their_targets():
    rows = tiny.random_rows(64, packed=True)
    batch = MaskedLM(rate=0.3).corrupt(KEY, rows, tiny.VOCABULARY)
    scored, weights = np.asarray(batch.scored_BP), np.asarray(batch.weights["loss"])
    for b in range(scored.shape[0]):
        real = scored[b][weights[b] > 0]
        assert (np.diff(real) > 0).all()
        np.testing.assert_array_equal(batch.targets_BP[b][weights[b] > 0], rows.tokens_BT[b][real])
        assert (rows.segments_BT[b][real] > 0).all()
        changed = np.nonzero(np.asarray(batch.inputs.tokens_BT[b] != rows.tokens_BT[b]))[0]
        assert set(changed) <= set(real)


def test_gathered_loss_equals_the_loss_over_all_positions():
    objective = MaskedLM(rate=0.3)
    spec = tiny.model_spec()
    params = tiny.random_params(spec)
    batch = objective.corrupt(KEY, tiny.random_rows(32), tiny.VOCABULARY)

    @jax.jit
    def both(params):
        model = spec.bind(params)
        logits = model.logits(model(batch.inputs).states_BTD)
        losses = cross_entropy(jnp.take_along_axis(logits, batch.scored_BP[:, :, None], axis=1), batch.targets_BP)
        return objective.terms(model, batch, None).sums["loss"], jnp.sum(losses * batch.weights["loss"])

    gathered, plain = both(params)
    np.testing.assert_allclose(gathered, plain, rtol=1e-5)


def test_overflowing_slots_drop_the_last_positions_only():
    is_scored = jnp.array([[True, False, True, True, True], [False, False, True, False, False]])
    np.testing.assert_array_equal(scored_positions(is_scored, 3), [[0, 2, 3], [2, 5, 5]])


def test_slots_are_rarely_too_few():
    assert slots(512, 0.15) == 120
    assert slots(16, 0.15) <= 16
    counts = np.random.default_rng(0).binomial(512, 0.15, 100_000)
    assert (counts > slots(512, 0.15)).sum() == 0


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_targets_have_no_influence_on_their_own_prediction(objective):
    """Changing the token to be predicted at one place changes no logit at that place."""
    spec = tiny.model_spec()
    params = tiny.random_params(spec)
    rows = tiny.random_rows(objective.row_length(16), num_rows=4)
    batch = objective.corrupt(KEY, rows, tiny.VOCABULARY)
    if batch.scored_BP is not None:
        # The input of a masked model is fixed by corruption: the row's own token is simply not there,
        # but where it was kept or hit by chance.
        hidden_tokens = np.take_along_axis(np.asarray(batch.inputs.tokens_BT), np.asarray(batch.scored_BP), axis=1)
        kept = (hidden_tokens == batch.targets_BP) & (np.asarray(batch.weights["loss"]) > 0)
        assert kept.sum() <= 0.5 * (np.asarray(batch.weights["loss"]) > 0).sum()
        return

    @jax.jit
    def hidden(tokens_BT):
        return spec.bind(params)(dataclasses.replace(batch.inputs, tokens_BT=tokens_BT)).states_BTD

    before = hidden(batch.inputs.tokens_BT)
    scored = np.argwhere(np.asarray(batch.weights["loss"]) > 0)
    for b, t in scored[:: max(1, len(scored) // 8)]:
        if t + 1 >= batch.inputs.tokens_BT.shape[1]:
            continue
        after = hidden(batch.inputs.tokens_BT.at[b, t + 1].set(59))
        np.testing.assert_array_equal(before[b, t], after[b, t])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_corruption_is_the_same_jitted_and_not_and_repeats_with_its_key(objective):
    rows = tiny.random_rows(objective.row_length(16))
    corrupt = functools.partial(objective.corrupt, vocabulary=tiny.VOCABULARY)
    plain, jitted = corrupt(KEY, rows), jax.jit(corrupt)(KEY, rows)
    jax.tree.map(np.testing.assert_array_equal, plain, jitted)


def test_smoothing_and_z_loss_regularise_training_and_leave_evaluation_alone():
    plain, regular = CausalLM(), CausalLM(label_smoothing=0.1, z_loss=0.01)
    spec = tiny.model_spec()
    params = tiny.random_params(spec)
    batch = plain.corrupt(KEY, tiny.random_rows(17), tiny.VOCABULARY)
    objectives = (plain, regular, regular.for_evaluation())
    loss = {o: float(o.terms(spec.bind(params), batch, None).sums["loss"]) for o in objectives}
    assert loss[regular] != pytest.approx(loss[plain])
    assert loss[regular.for_evaluation()] == loss[plain]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: MaskedLM(rate=0.0), "objective.rate=0.0"),
        (lambda: MaskedLM(mask_fraction=0.9, random_fraction=0.2), "objective.mask_fraction=0.9"),
        (lambda: CausalLM(label_smoothing=1.0), "objective.label_smoothing=1.0"),
        (lambda: CausalLM(z_loss=-1.0), "objective.z_loss=-1.0"),
        (lambda: CausalLM(normalization="document"), "objective.normalization='document'"),
        (lambda: PrefixLM(loss_on="prefix"), "objective.loss_on='prefix'"),
    ],
)
def test_impossible_hyperparameters_are_refused_by_field(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_objective_refuses_a_tokenizer_without_a_mask_and_positions_that_are_too_few():
    bare = Vocabulary(size=64, byte_length_V=np.ones(64, np.int32))
    with pytest.raises(ValueError, match="MaskedLM needs a 'mask' token"):
        MaskedLM().check(model=tiny.MODEL, vocabulary=bare, sequence_length=16)
    learned = dataclasses.replace(tiny.MODEL, positions="learned", max_length=8)
    with pytest.raises(ValueError, match="train.sequence_length=16 is longer than the model's learned positions"):
        CausalLM().check(model=learned, vocabulary=bare, sequence_length=16)


def test_ignored_label_is_the_one_masking_uses():
    assert IGNORE_INDEX == -100


def test_the_base_class_has_at_most_a_dozen_members():
    own = vars(Objective).keys() - Choice.__annotations__.keys()
    assert len([name for name in own if not name.startswith("_")]) <= 12
