import dataclasses
import functools
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import ReplacedToken
from lmjax.objectives.replaced_token import whole_generator
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows

KEY = jax.random.key(0)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
OBJECTIVE = ReplacedToken(rate=0.3, generator_ratio=0.5)


@functools.cache
def spec_of(objective: ReplacedToken):
    return module_spec(lambda key: objective.build(MODEL, rngs=nnx.Rngs(params=key)))


def array_shapes(jaxpr) -> list[tuple[int, ...]]:
    """Of every array in a program."""
    return [tuple(map(int, shape.split(","))) for shape in re.findall(r"\d\[([\d,]+)\]", str(jaxpr))]


class FixedGenerator:
    """Says the same distribution everywhere."""

    def __init__(self, logits_V):
        self.logits_V = jnp.asarray(logits_V, jnp.float32)
        self.config = types.SimpleNamespace(vocab_size=len(logits_V))

    def logits(self, hidden):
        return jnp.broadcast_to(self.logits_V, (*hidden.shape[:-1], len(self.logits_V)))


def sampled(objective, generator, batch):
    hidden = jnp.zeros((*batch.scored_BP.shape, 4))
    return jax.jit(lambda batch: objective.sample(generator, hidden, batch))(batch)


def test_samples_take_the_place_of_masked_tokens_and_lucky_ones_are_original():
    batch = OBJECTIVE.corrupt(KEY, tiny.random_rows(64), tiny.VOCABULARY)
    always_0 = FixedGenerator(50.0 * (np.arange(64) == 0))
    replaced, is_replaced = map(np.asarray, sampled(OBJECTIVE, always_0, batch))
    original = np.asarray(batch.extras["original"])
    masked = np.asarray(batch.inputs.tokens_BT) == tiny.VOCABULARY.mask_id
    np.testing.assert_array_equal(replaced, np.where(masked, 0, original))
    np.testing.assert_array_equal(is_replaced, masked & (original != 0))
    assert (masked & (original == 0)).any()
    assert 0.2 < masked[np.asarray(batch.weights["discriminator"]) > 0].mean() < 0.4


def test_samples_follow_the_generators_distribution_and_the_temperature():
    rows = Rows(tokens_BT=jnp.full((1024, 32), 9, jnp.int32))
    logits = np.array([2.0, 1.0, 0.0, -1.0] + [-50.0] * 60)
    for temperature in (1.0, 2.0):
        objective = ReplacedToken(rate=0.5, temperature=temperature)
        batch = objective.corrupt(KEY, rows, tiny.VOCABULARY)
        replaced, is_replaced = map(np.asarray, sampled(objective, FixedGenerator(logits), batch))
        draws = replaced[is_replaced]
        expected = np.exp(logits[:4] / temperature)
        expected /= expected.sum()
        shares = np.bincount(draws, minlength=4)[:4] / len(draws)
        errors = np.sqrt(expected * (1 - expected) / len(draws))
        assert (np.abs(shares - expected) < 3.5 * errors).all()
    # Neither rows nor slots share their draws: two of them agree by chance only.
    draws_BP = np.take_along_axis(replaced, np.asarray(batch.scored_BP), axis=1)
    by_chance = np.square(expected).sum()
    filled = np.asarray(batch.extras["is_masked"])[:, 9:12] == 1
    for others in (draws_BP[:, 1:4], np.roll(draws_BP, 1, axis=0)[:, 9:12]):
        agree = (draws_BP[:, 9:12] == others)[filled].mean()
        assert agree == pytest.approx(by_chance, abs=0.05)


@functools.cache
def terms_and_jacobian():
    """Of the small model, compiled once."""
    spec = spec_of(OBJECTIVE)
    batch = OBJECTIVE.corrupt(KEY, tiny.random_rows(16), tiny.VOCABULARY)

    def terms(params):
        terms = OBJECTIVE.terms(spec.bind(params), batch, None).sums
        return terms, terms

    return batch, jax.jit(jax.jacrev(terms, has_aux=True))


def test_untrained_terms_are_the_entropies_of_guessing():
    """With all parameters zero the generator is uniform and the discriminator undecided."""
    batch, compiled = terms_and_jacobian()
    _, terms = compiled(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), spec_of(OBJECTIVE).shapes))
    for name, expected in (("generator", math.log(64)), ("discriminator", math.log(2))):
        assert float(terms[name] / jnp.sum(batch.weights[name])) == pytest.approx(expected, rel=1e-5)
    assert OBJECTIVE.coefficients() == {"discriminator": 50.0}
    # Every token is judged, masked or not, padding excepted.
    np.testing.assert_array_equal(batch.weights["discriminator"], tiny.random_rows(16).segments_BT > 0)


def test_terms_train_their_own_network_and_share_the_embedding_only():
    params = tiny.random_params(spec_of(OBJECTIVE))
    jacobian, _ = terms_and_jacobian()[1](params)

    def is_used(tree) -> bool:
        return any(bool(np.any(leaf)) for leaf in jax.tree.leaves(jax.device_get(tree)))

    networks = {term: {"discriminator": by["model"], **by["extras"]} for term, by in jacobian.items()}
    for term, other in (("generator", "discriminator"), ("discriminator", "generator")):
        assert is_used(networks[term][term]["tail"])
        assert not is_used(networks[term][other]["tail"])
        assert is_used(networks[term]["discriminator"]["embedding"])
    assert is_used(networks["generator"]["generator"]["embedding_projection"])
    assert not is_used(jacobian["replaced"])
    assert "embedding" not in params["extras"]["generator"]


def test_masked_tokens_reach_the_generator_in_no_way():
    rows = tiny.random_rows(32)
    before = OBJECTIVE.corrupt(KEY, rows, tiny.VOCABULARY)
    hidden = before.inputs.tokens_BT == tiny.VOCABULARY.mask_id
    others = Rows(tokens_BT=jnp.where(hidden, 59 - rows.tokens_BT, rows.tokens_BT), segments_BT=rows.segments_BT)
    jax.tree.map(np.testing.assert_array_equal, before.inputs, OBJECTIVE.corrupt(KEY, others, tiny.VOCABULARY).inputs)


def test_embeddings_are_shared_in_their_own_width_or_separate():
    learned = dataclasses.replace(MODEL, positions="learned", head_transform=True)

    def shapes(**options):
        objective = ReplacedToken(**options)
        found = module_spec(lambda key: objective.build(learned, rngs=nnx.Rngs(params=key))).shapes
        return {"discriminator": found["model"], **found["extras"]}

    shared = shapes(generator_ratio=0.5)
    assert not {"embedding", "position_embedding"} & shared["generator"].keys()
    assert shared["generator"]["embedding_projection"]["weight"].shape == (16, 8)
    assert shared["generator"]["head_dense"]["weight"].shape == (8, 16)
    assert "embedding_projection" not in shapes(generator_ratio=1.0)["generator"]
    assert shapes(generator_ratio=0.5, share_embeddings=False)["generator"]["embedding"]["table_VD"].shape == (64, 8)
    # The discriminator names no token.
    assert not {"head_dense", "head_norm"} & shared["discriminator"].keys()
    model = spec_of(OBJECTIVE).bind(params := tiny.random_params(spec_of(OBJECTIVE)))
    table = params["model"]["embedding"]["table_VD"]
    generator = whole_generator(model, share_embeddings=True)
    np.testing.assert_array_equal(generator.embedding.table_VD[...], table)
    np.testing.assert_array_equal(generator.head().weight_DV, table.T)


def test_logits_of_all_slots_never_exist():
    batch = ReplacedToken(rate=0.5, generator_ratio=0.5).corrupt(KEY, tiny.random_rows(32), tiny.VOCABULARY)
    shapes = array_shapes(
        jax.make_jaxpr(lambda batch: OBJECTIVE.sample(FixedGenerator(np.zeros(64)), jnp.zeros((8, 32, 4)), batch))(
            batch
        )
    )
    assert batch.scored_BP.shape == (8, 32)
    assert max(math.prod(shape) for shape in shapes if 64 in shape) == 8 * 8 * 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 1.0}, "objective.rate=1.0"),
        ({"generator_ratio": 0.0}, "objective.generator_ratio=0.0"),
        ({"discriminator_weight": -1.0}, "objective.discriminator_weight=-1.0"),
        ({"temperature": 0.0}, "objective.temperature=0.0"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ReplacedToken(**options)


def test_tokenizer_and_model_that_do_not_fit_are_refused():
    check = functools.partial(ReplacedToken(generator_ratio=0.5).check, sequence_length=16)
    bare = Vocabulary(size=64, byte_length_V=np.ones(64, np.int32))
    with pytest.raises(ValueError, match="ReplacedToken needs a 'mask' token"):
        check(model=MODEL, vocabulary=bare)
    with pytest.raises(ValueError, match=r"model.tie_embeddings=False: .*set it to True"):
        check(model=dataclasses.replace(MODEL, tie_embeddings=False), vocabulary=tiny.VOCABULARY)
    with pytest.raises(ValueError, match=r"objective.generator_ratio=0.5 of model.num_heads=1 is not a whole number"):
        check(model=dataclasses.replace(MODEL, num_heads=1), vocabulary=tiny.VOCABULARY)
