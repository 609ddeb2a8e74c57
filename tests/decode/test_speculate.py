"""Speculative decoding, with another model and with a model's own further heads, against decoding without it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from small_decoders import GREEDY, MODELS, NEW, NO_EOS, PROMPTS, START, built, last_logits, sample

from lmjax.decode import speculate
from lmjax.decode.accept import accept
from lmjax.decode.logits import SamplingConfig, narrow, penalize, restrict
from lmjax.decode.prompts import padded, row_keys
from lmjax.decode.ready import made_ready
from lmjax.decode.sample import generate
from lmjax.decode.speculate import Speculation, Tally, stream
from lmjax.models.with_extras import extra_of, model_of, model_spec, trained_spec
from lmjax.objectives import MultiTokenLM, SequentialMultiTokenLM
from lmjax.objectives.multi_token import run_head, run_trunk
from lmjax.objectives.sequential_tokens import run_module, run_without_norm
from lmjax.types import make_stream

HEADED = dataclasses.replace(MODELS["learned"], num_layers=2)
OBJECTIVES = {"further_heads": MultiTokenLM(num_heads=4), "prediction_modules": SequentialMultiTokenLM(num_heads=4)}


@functools.cache
def headed(proposer):
    """A model with further heads, and its random parameters."""
    spec = trained_spec(lambda key: OBJECTIVES[proposer].build(HEADED, rngs=nnx.Rngs(params=key)))
    return spec, tiny.random_params(spec)


def write(spec, params, speculation, prompts=PROMPTS, *, sampling=GREEDY, vocabulary=NO_EOS, new=NEW, **options):
    options = {"every": 2**30, "vocabulary": vocabulary, "max_new_tokens": new, "sampling": sampling} | options
    texts = [[] for _ in prompts]
    for pieces in stream(spec, params, prompts, speculation=speculation, **options):
        for text, piece in zip(texts, pieces, strict=True):
            text += piece
    return texts


def by_other(name, *, length=3, seed=1, mix=0.95):
    """Another model of the same kind: the parameters of the model, mixed with other random ones."""
    spec, params = built(name)
    other = jax.tree.map(lambda a, b: mix * a + (1 - mix) * b, params, tiny.random_params(spec, seed=seed))
    return Speculation(proposer="model", length=length, spec=spec, params=other, tally=Tally())


@pytest.mark.parametrize("name", ["rope_gqa", "learned", "alibi_windows", "encoder_decoder"])
def test_greedy_text_is_that_of_the_model_alone_whatever_another_model_proposes(name):
    start = {"start_id": START} if name == "encoder_decoder" else {}
    speculation = by_other(name)
    # The rows keep different numbers of tokens, and the last proposals of "learned" lie beyond its 13 positions.
    limit = {"max_length": 13} if name == "learned" else {}
    assert write(*built(name), speculation, **start, **limit) == sample(name, **start)
    assert 0 < speculation.tally.kept_per_pass < 3
    own = dataclasses.replace(speculation, params=built(name)[1], tally=Tally())
    assert write(*built(name), own, **start) == sample(name, **start)
    # 1 + 3 + 1 tokens, and of the second proposals only the first has room.
    assert own.tally.passes == 2 * len(PROMPTS) and own.tally.kept == 4 * len(PROMPTS)


@pytest.mark.parametrize("proposer", OBJECTIVES)
def test_greedy_text_is_that_of_the_model_alone_whatever_its_heads_propose(proposer):
    spec, params = headed(proposer)
    alone = model_spec(spec.construct)
    options = {"vocabulary": NO_EOS, "sampling": GREEDY, "max_new_tokens": NEW}
    speculation = Speculation(proposer=proposer, length=3)
    texts = write(spec, params, speculation)
    assert texts == generate(alone, params["model"], PROMPTS, **options)
    assert speculation.tally.passes >= 5
    # A limit of its own for each row, an end of text in the midst of what a pass adds, and pieces of a few tokens.
    eos = texts[0][3]
    vocabulary = dataclasses.replace(NO_EOS, eos_id=eos)
    ends = [text.index(eos) if eos in text else NEW for text in texts]
    limits = [6, 5, 1, 2]
    wanted = [text[: min(end, limit)] for text, end, limit in zip(texts, ends, limits, strict=True)]
    assert write(spec, params, speculation, vocabulary=vocabulary, new=limits, every=2) == wanted


@pytest.mark.parametrize("proposer", OBJECTIVES)
def test_heads_with_caches_say_what_they_say_without(proposer):
    """After two rounds in which other numbers of tokens were kept in each row."""
    spec, params = headed(proposer)
    ready, ready_params = made_ready(spec, params)
    sampling = SamplingConfig(temperature=2.0)
    plan = speculate._Plan((ready,), proposer, 3, sampling, 64, None, None, False)
    tokens_BT, lengths_B = padded(PROMPTS)
    keys_B, limits_B = row_keys(PROMPTS, 0), np.full(4, 20, np.int32)
    texts = speculate._begin((ready_params,), tokens_BT, lengths_B, None, keys_B, limits_B, plan=plan, room=24)
    texts = speculate._advance((ready_params,), texts, keys_B, 4, limits_B, plan=plan)
    proposals = speculate._proposer(plan, (ready_params,))
    said = []

    def draw(logits_BV, tokens_BS, number):
        said.append(np.asarray(logits_BV))
        token_B = jnp.full((4,), 7 + number, jnp.int32)
        return token_B, logits_BV, speculate._put(tokens_BS, token_B[:, None], lengths + number)

    lengths = texts.prompt_lengths_B + texts.num_new_B
    tokens_BS = proposals.propose(texts.memory, texts.tokens_BS, lengths, draw)[2]
    module = spec.bind(params)
    model, extras = model_of(module), extra_of(module, proposer)
    assert len({int(length) for length in texts.num_new_B}) > 1
    for row, length in enumerate(np.asarray(lengths).tolist()):
        text_1T = tokens_BS[row : row + 1, : length - 1]
        inputs = make_stream(text_1T, None, "causal")
        states = run_trunk(model, inputs) if proposer == "further_heads" else run_without_norm(model, inputs)
        states_1TD = states.states_BTD
        for number in range(3):
            if proposer == "further_heads":
                block = jax.tree.map(lambda leaf, place=number: leaf[place], extras)
                out_1TD = run_head(model, block, states_1TD, inputs).states_BTD
            else:
                ahead_1T = tokens_BS[row : row + 1, number + 1 : length + number]
                states_1TD, out_1TD, _ = run_module(extras[number], model, states_1TD, inputs, ahead_1T)
            np.testing.assert_allclose(said[number][row], model.logits(out_1TD[0, -1]), atol=2e-4)


@pytest.mark.parametrize("proposer", ["model", "further_heads"])
def test_short_texts_come_up_as_often_as_the_model_says(proposer):
    """Chi-square over all texts of three tokens out of three, with penalties and a temperature."""
    name, prompt, ids = "learned", PROMPTS[1], (3, 8, 20)
    sampling = SamplingConfig(temperature=1.7, allowed_tokens=ids, repetition_penalty=1.4, top_p=0.97)
    if proposer == "model":
        (spec, params), speculation = built(name), by_other(name, length=2)
        next_logits = functools.partial(last_logits(name), params)
    else:
        (spec, params), speculation = headed(proposer), Speculation(proposer=proposer, length=3)

        @jax.jit
        def next_logits(tokens_1T, length, _):
            hidden = model_of(spec.bind(params))(make_stream(tokens_1T, None, "causal")).states_BTD
            return model_of(spec.bind(params)).logits(hidden[0, length - 1])

    wanted = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, before in wanted.items():
            row = np.zeros((1, 13), np.int32)
            row[0, : len(prompt) + len(text)] = [*prompt, *text]
            length = jnp.array(len(prompt) + len(text))
            logits = restrict(next_logits(row, length, jnp.array(0)), sampling, num_ids=64)
            logits = penalize(
                logits, sampling, previous=jnp.asarray(row[0]), prompt_length=jnp.array(len(prompt)), length=length
            )
            share = np.asarray(jax.nn.softmax(narrow(logits, sampling)))
            longer |= {(*text, token): before * share[token] for token in ids}
        wanted = longer
    num = 6000
    texts = write(spec, params, speculation, [prompt] * num, sampling=sampling, new=3)
    counts = dict.fromkeys(wanted, 0)
    for text in texts:
        counts[tuple(text)] += 1
    assert all(counts[text] == 0 for text, share in wanted.items() if share == 0)
    likely = [text for text, share in wanted.items() if share * num >= 5]
    chi_square = sum((counts[text] - num * wanted[text]) ** 2 / (num * wanted[text]) for text in likely)
    # 26 degrees of freedom at most: above 54 comes up once in a thousand times.
    assert len(likely) > 8 and chi_square < 54
    assert 0.1 < speculation.tally.kept_per_pass < 2


def test_the_rule_keeps_as_much_as_two_distributions_have_in_common():
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.2, 0.3, 0.4])
    num = 40_000
    proposed_BJ = np.random.default_rng(0).choice(4, (num, 1), p=q).astype(np.int32)
    rows = jnp.broadcast_to(jnp.log(jnp.array([[p, p]])), (num, 2, 4))
    kept_B, token_B = accept(
        jax.random.split(jax.random.key(1), num),
        proposed_BJ,
        jnp.broadcast_to(jnp.log(q)[None, None], (num, 1, 4)),
        rows,
    )
    first_B = np.where(np.asarray(kept_B) == 1, proposed_BJ[:, 0], token_B)
    np.testing.assert_allclose(np.bincount(first_B, minlength=4) / num, p, atol=0.012)
    np.testing.assert_allclose(np.mean(kept_B), np.minimum(p, q).sum(), atol=0.012)
    # What follows a kept token is a draw from p as well.
    np.testing.assert_allclose(np.bincount(token_B[kept_B == 1], minlength=4)[:4] / np.sum(kept_B), p, atol=0.02)


def test_a_prompts_text_depends_on_its_seed_and_not_on_the_batch_or_on_how_it_is_handed_out():
    flat = SamplingConfig(temperature=2.0, repetition_penalty=1.3)
    speculation = by_other("rope_gqa")
    spec, params = built("rope_gqa")
    together = write(spec, params, speculation, sampling=flat, seed=5, every=2)
    for prompt, text in zip(PROMPTS, together, strict=True):
        assert write(spec, params, speculation, [prompt], sampling=flat, seed=5) == [text]
    assert together != write(spec, params, speculation, sampling=flat, seed=6)


def test_what_cannot_propose_is_refused():
    with pytest.raises(ValueError, match="recurrent layer cannot take back"):
        write(*built("hybrid"), by_other("hybrid"))
    short = dataclasses.replace(by_other("learned"), max_length=10)
    with pytest.raises(ValueError, match="make 13 positions and the model has learned 10"):
        write(*built("learned"), short, max_length=13)
    with pytest.raises(ValueError, match="draft_length=0: must be at least 1"):
        Speculation(proposer="model", length=0)
