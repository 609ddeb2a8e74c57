"""Beam search against greedy decoding and against all texts there are."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_decoders import MODELS, NO_EOS, PROMPTS, START, built, last_logits, sample

from lmjax.decode.beam import BeamConfig, beam_search
from lmjax.decode.logits import SamplingConfig

NEW = 5


def search(name="rope_gqa", prompts=PROMPTS, *, vocabulary=NO_EOS, new=NEW, options=None, **beam):
    spec, params = built(name)
    return beam_search(
        spec,
        params,
        prompts,
        vocabulary=vocabulary,
        max_new_tokens=new,
        beam=BeamConfig(**beam),
        **options or {},
    )


@pytest.mark.long
@pytest.mark.parametrize("name", ["rope_gqa", "hybrid", "encoder_decoder"])
def test_a_beam_of_width_one_is_greedy(name):
    options = {"start_id": START} if MODELS[name].encoder_layers else {}
    greedy = sample(name, new=NEW, **options)
    assert search(name, beams=1, options=options) == greedy
    # One that ends, ends there too, although a longer text might have a higher score.
    vocabulary = dataclasses.replace(NO_EOS, eos_id=greedy[0][2])
    ended = sample(name, new=NEW, vocabulary=vocabulary, **options)
    assert search(name, beams=1, vocabulary=vocabulary, options=options) == ended


SMALL = 5
"""Ids of the vocabulary in which all texts are looked at."""


def all_texts(prompt, new, eos_id, penalty, size=SMALL):
    """Every text of at most ``new`` tokens with its score, by forward passes over whole texts."""
    name, found = "rope_gqa", []

    def log_p(text):
        row = np.zeros((1, 13), np.int32)
        row[0, : len(text)] = text
        logits = last_logits(name)(built(name)[1], row, jnp.array(len(text)), jnp.array(0))[:size]
        return np.asarray(logits - jnp.log(jnp.sum(jnp.exp(logits))))

    def visit(text, total):
        for token, own in enumerate(log_p(text)):
            longer, length = [*text, token], len(text) + 1 - len(prompt)
            if token == eos_id or length == new:
                found.append((float(total + own) / length**penalty, [x for x in longer[len(prompt) :] if x != eos_id]))
            else:
                visit(longer, total + own)

    visit(list(prompt), 0.0)
    return sorted(found, reverse=True)


@pytest.mark.parametrize(("eos_id", "penalty"), [*itertools.product((None, 2), (0.0, 1.0, 2.0))])
def test_a_beam_as_wide_as_the_vocabulary_finds_the_best_of_all_texts_of_two_tokens(eos_id, penalty):
    vocabulary = dataclasses.replace(
        NO_EOS, size=SMALL, eos_id=eos_id, pad_id=None, byte_length_V=NO_EOS.byte_length_V[:SMALL]
    )
    prompts = [[1, 2, 3, 4], [0], [4, 4]]
    texts = search(prompts=prompts, vocabulary=vocabulary, new=2, beams=SMALL, length_penalty=penalty)
    assert texts == [all_texts(prompt, 2, eos_id, penalty)[0][1] for prompt in prompts]


def test_several_texts_of_a_prompt_come_best_first_and_a_wide_beam_finds_all_of_them():
    vocabulary = dataclasses.replace(NO_EOS, size=3, eos_id=2, pad_id=None, byte_length_V=NO_EOS.byte_length_V[:3])
    best = [text for _, text in all_texts([1, 0], 3, 2, 1.0, size=3)][:4]
    texts = search(prompts=[[1, 0], [0]], vocabulary=vocabulary, new=3, beams=12, options={"num_texts": 4})
    assert texts[:4] == best and len(texts) == 8


@pytest.mark.long
def test_rows_have_their_own_limits_and_penalties():
    alone = [search(prompts=[prompt], new=new, beams=3)[0] for prompt, new in zip(PROMPTS, (1, 5, 3, 2), strict=True)]
    assert search(new=[1, 5, 3, 2], beams=3) == alone
    assert [len(text) for text in alone] == [1, 5, 3, 2]
    once = search(beams=3, options={"sampling": SamplingConfig(no_repeat_ngram=1)})
    assert all(len({*prompt, *text}) == len({*prompt}) + NEW for prompt, text in zip(PROMPTS, once, strict=True))


def test_early_stop_ends_with_the_first_texts_that_end():
    """Ids 0 (the end) and 1 are equally likely, so n tokens have the score ``-n log(2) / n^3``: longer is better."""
    silent = jax.tree.map(jnp.zeros_like, built("rope_gqa")[1])
    vocabulary = dataclasses.replace(NO_EOS, size=2, eos_id=0, pad_id=None, byte_length_V=NO_EOS.byte_length_V[:2])

    def found(**beam):
        return beam_search(
            built("rope_gqa")[0],
            silent,
            [[1]],
            vocabulary=vocabulary,
            max_new_tokens=6,
            beam=BeamConfig(beams=2, **beam),
            num_texts=2,
        )

    assert found(early_stop=True, length_penalty=3.0) == [[1], []]
    # Six tokens, of which the last may be the end; and without a penalty on short texts the shortest.
    assert len(found(length_penalty=3.0)[0]) >= 5
    assert found(length_penalty=0.0) == [[], [1]]


@pytest.mark.parametrize(
    ("beam", "options", "words"),
    [
        ({"beams": 0}, {}, "beams=0"),
        ({"length_penalty": float("nan")}, {}, "length_penalty=nan"),
        ({"beams": 2}, {"num_texts": 3}, "num_samples=3: a search with beams=2"),
        ({"beams": 2}, {"max_length": 7}, "has learned 7"),
        ({"beams": 2}, {"attention": "bidirectional"}, "fill-mask"),
    ],
)
def test_impossible_searches_are_refused(beam, options, words):
    with pytest.raises(ValueError, match=words):
        search(options=options, **beam)
