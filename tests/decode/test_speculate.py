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

from lmjax.decode import rounds
from lmjax.decode.accept import accept
from lmjax.decode.logits import SamplingConfig, narrow, penalize, restrict
from lmjax.decode.prompt_batch import Plan
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
# Among three tokens models of random parameters agree often enough; one of the three ends a text.
FEW, ENDS = (5, 6, 9), dataclasses.replace(NO_EOS, eos_id=9)
GREEDY_FEW = SamplingConfig(temperature=0.0, allowed_tokens=FEW)


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


def by_other(name, *, length=3):
    """Another model of the same kind: the parameters of the model, mixed with a few of other random ones."""
    spec, params = built(name)
    other = jax.tree.map(lambda a, b: 0.95 * a + 0.05 * b, params, tiny.random_params(spec, seed=1))
    return Speculation(proposer="model", length=length, spec=spec, params=other, tally=Tally())


@pytest.mark.long
@pytest.mark.parametrize("name", ["alibi_windows", "encoder_decoder"])
def test_greedy_text_is_that_of_the_model_alone_whatever_another_model_proposes(name):
    start = {"start_id": START} if name == "encoder_decoder" else {}
    speculation = by_other(name)
    assert write(*built(name), speculation, **start) == sample(name, **start)
    assert 0 < speculation.tally.kept_per_pass < 3
    own = dataclasses.replace(speculation, params=built(name)[1], tally=Tally())
    assert write(*built(name), own, **start) == sample(name, **start)
    # 1 + 3 + 1 tokens, and of the second proposals only the first has room.
    assert own.tally.passes == 2 * len(PROMPTS) and own.tally.kept == 4 * len(PROMPTS)


@pytest.mark.parametrize("proposer", OBJECTIVES)
def test_greedy_text_is_that_of_the_model_alone_whatever_its_heads_propose(proposer):
    """With ends in the midst of what a pass adds, a limit for each row, pieces, and all learned positions used."""
    spec, params = headed(proposer)
    speculation = Speculation(proposer=proposer, length=3)
    options = {"vocabulary": ENDS, "sampling": GREEDY_FEW, "max_length": 13}
    alone = generate(model_spec(spec.construct), params["model"], PROMPTS, max_new_tokens=NEW, **options)
    assert write(spec, params, speculation, **options) == alone
    assert 0 < speculation.tally.kept_per_pass < 3
    limits = [6, 5, 1, 2]
    limited = write(spec, params, speculation, new=limits, every=2, **options)
    assert limited == [text[:limit] for text, limit in zip(alone, limits, strict=True)]


@pytest.mark.long
@pytest.mark.parametrize("proposer", OBJECTIVES)
def test_heads_with_caches_say_what_they_say_without(proposer):
    """After rounds in which other numbers of tokens were kept in each row."""
    spec, params = headed(proposer)
    ready, ready_params = made_ready(spec, params)
    plan = Plan(specs=(ready,), sampling=GREEDY_FEW, num_ids=64, eos_id=None, pad_id=None, prefix=False)
    how = {"plan": plan, "proposer": proposer, "length": 3}
    tokens_BT, lengths_B = padded(PROMPTS)
    keys_B, limits_B = row_keys(PROMPTS, 0), np.full(4, 20, np.int32)
    texts = rounds.begin((ready_params,), tokens_BT, lengths_B, None, keys_B, limits_B, **how, room=24)
    texts = rounds.advance((ready_params,), texts, keys_B, 5, limits_B, **how)
    assert len({int(length) for length in texts.num_new_B}) > 1
    lengths_B = texts.prompt_lengths_B + texts.num_new_B

    @jax.jit
    def with_caches(params, texts):
        said = []

        def draw(logits_BV, tokens_BS, number):
            said.append(logits_BV)
            token_B = jnp.full((4,), 7 + number, jnp.int32)
            return token_B, logits_BV, rounds._put(tokens_BS, token_B[:, None], lengths_B + number)

        tokens_BS = rounds._proposing(plan, (params,), proposer, 3).propose(
            texts.memory, texts.tokens_BS, lengths_B, draw
        )[2]
        return jnp.stack(said), tokens_BS

    @jax.jit
    def without(params, tokens_BS):
        module = spec.bind(params)
        model, extras = model_of(module), extra_of(module, proposer)
        inputs = make_stream(tokens_BS, None, "causal")
        if proposer == "further_heads":
            trunk = run_trunk(model, inputs).states_BTD
            blocks = [jax.tree.map(lambda leaf, place=place: leaf[place], extras) for place in range(3)]
            outs = [run_head(model, block, trunk, inputs).states_BTD for block in blocks]
        else:
            states_BTD, outs = run_without_norm(model, inputs).states_BTD, []
            for number in range(3):
                ahead_BS = jnp.roll(tokens_BS, -1 - number, axis=1)
                states_BTD, out_BTD, _ = run_module(extras[number], model, states_BTD, inputs, ahead_BS)
                outs.append(out_BTD)
        return jnp.stack([model.logits(out_BTD[jnp.arange(4), lengths_B - 2]) for out_BTD in outs])

    said, tokens_BS = with_caches(ready_params, texts)
    np.testing.assert_allclose(said, without(params, tokens_BS), atol=3e-4)


@pytest.mark.long
def test_short_texts_come_up_as_often_as_the_model_says():
    """Chi-square over all texts of three tokens out of three, with a temperature, a penalty and a nucleus."""
    name, prompt, ids = "learned", PROMPTS[1], (3, 8, 20)
    sampling = SamplingConfig(temperature=1.7, allowed_tokens=ids, repetition_penalty=1.4, top_p=0.97)
    (spec, params), speculation = built(name), by_other(name, length=2)
    wanted = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, before in wanted.items():
            row = np.zeros((1, 13), np.int32)
            row[0, : len(prompt) + len(text)] = [*prompt, *text]
            length = jnp.array(len(prompt) + len(text))
            logits = restrict(last_logits(name)(params, row, length, jnp.array(0)), sampling, num_ids=64)
            logits = penalize(
                logits, sampling, previous=jnp.asarray(row[0]), prompt_length=jnp.array(len(prompt)), length=length
            )
            share = np.asarray(jax.nn.softmax(narrow(logits, sampling)))
            longer |= {(*text, token): before * share[token] for token in ids}
        wanted = longer
    num = 4000
    texts = [tuple(text) for text in write(spec, params, speculation, [prompt] * num, sampling=sampling, new=3, seed=3)]
    counts = {text: texts.count(text) for text in wanted}
    assert sum(counts.values()) == num and all(counts[text] == 0 for text, share in wanted.items() if share == 0)
    likely = [text for text, share in wanted.items() if share * num >= 5]
    chi_square = sum((counts[text] - num * wanted[text]) ** 2 / (num * wanted[text]) for text in likely)
    # 26 degrees of freedom at most: above 54 comes up once in a thousand times.
    assert len(likely) > 8 and chi_square < 54
    assert 0.1 < speculation.tally.kept_per_pass < 2
    # A row's text depends on the seed and the prompt, and not on the other rows or on how it is handed out.
    [alone] = write(spec, params, speculation, [prompt], sampling=sampling, new=3, seed=3, every=1)
    assert tuple(alone) == texts[0]


def test_the_rule_keeps_as_much_as_two_distributions_have_in_common():
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.2, 0.3, 0.4])
    num = 40_000
    proposed_BJ = np.random.default_rng(0).choice(4, (num, 1), p=q).astype(np.int32)
    log_q_BJV = jnp.broadcast_to(jnp.log(q)[None, None], (num, 1, 4))
    log_p_BWV = jnp.broadcast_to(jnp.log(p)[None, None], (num, 2, 4))
    kept_B, token_B = map(
        np.asarray, accept(jax.random.split(jax.random.key(1), num), proposed_BJ, log_q_BJV, log_p_BWV)
    )
    first_B = np.where(kept_B == 1, proposed_BJ[:, 0], token_B)
    np.testing.assert_allclose(np.bincount(first_B, minlength=4) / num, p, atol=0.012)
    np.testing.assert_allclose(np.mean(kept_B), np.minimum(p, q).sum(), atol=0.012)
    # What follows a kept token is a draw from p as well.
    np.testing.assert_allclose(np.bincount(token_B[kept_B == 1], minlength=4) / np.sum(kept_B), p, atol=0.02)


def test_what_cannot_propose_is_refused():
    with pytest.raises(ValueError, match="recurrent layer cannot take back"):
        write(*built("hybrid"), by_other("hybrid"))
    short = dataclasses.replace(by_other("learned"), max_length=10)
    with pytest.raises(ValueError, match="make 13 positions and the model has learned 10"):
        write(*built("learned"), short, max_length=13)
    with pytest.raises(ValueError, match="draft_length=0: must be at least 1"):
        Speculation(proposer="model", length=0)
