"""Contrastive search against a loop that runs the whole text for every candidate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_decoders import NO_EOS, PROMPTS, built, sample

from lmjax import masks
from lmjax.decode.contrastive_search import ContrastiveSearch, contrastive_search
from lmjax.types import Stream

NEW = 4


def searched(name, *, candidates, degeneration, **options):
    spec, params = built(name)
    return contrastive_search(
        spec,
        params,
        PROMPTS,
        vocabulary=NO_EOS,
        max_new_tokens=NEW,
        search=ContrastiveSearch(candidates=candidates, degeneration=degeneration),
        **options,
    )


@functools.cache
def whole_text(name):
    spec, params = built(name)

    @jax.jit
    def run(tokens_1T):
        positions_1T = jnp.arange(tokens_1T.shape[1])[None, :]
        model = spec.bind(params)
        stream = Stream(tokens_BT=tokens_1T, positions_BT=positions_1T, mask=masks.causal(tokens_1T.shape[1]))
        states_TD = model(stream).states_BTD[0]
        return states_TD, jax.nn.softmax(model.logits(states_TD), axis=-1)

    def padded(text):
        row = np.zeros((1, 12), np.int32)
        row[0, : len(text)] = text
        states_TD, probability_TV = map(np.asarray, run(row))
        directions = states_TD / np.linalg.norm(states_TD, axis=-1, keepdims=True)
        return directions[: len(text)], probability_TV[len(text) - 1]

    return padded


@pytest.mark.parametrize("name", ["rope_gqa", "hybrid"])
def test_each_token_is_the_best_candidate_by_the_formula(name):
    wanted = []
    for prompt in PROMPTS:
        text = list(prompt)
        for _ in range(NEW):
            said, probability = whole_text(name)(text)
            scores = {}
            for token in np.argsort(-probability)[:3]:
                own = whole_text(name)([*text, int(token)])[0][-1]
                scores[int(token)] = 0.3 * probability[token] - 0.7 * (said @ own).max()
            text.append(max(scores, key=scores.__getitem__))
        wanted.append(text[len(prompt) :])
    assert searched(name, candidates=3, degeneration=0.7) == wanted
    assert wanted != sample(name, new=NEW)


@pytest.mark.long
def test_without_a_choice_or_a_penalty_it_is_greedy():
    greedy = sample("rope_gqa", new=NEW)
    assert searched("rope_gqa", candidates=1, degeneration=0.9) == greedy
    assert searched("rope_gqa", candidates=4, degeneration=0.0) == greedy
    assert searched("rope_gqa", candidates=100, degeneration=0.5, max_length=11)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"candidates": 0}, "candidates=0"),
        ({"degeneration": 1.5}, "degeneration=1.5"),
        ({"degeneration": float("nan")}, "nan"),
    ],
)
def test_impossible_values_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        ContrastiveSearch(**values)
