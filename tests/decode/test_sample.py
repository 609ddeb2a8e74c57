import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from small_decoders import GREEDY, MODELS, NEW, NO_EOS, PROMPTS, START, built, last_logits, sample

from lmjax import masks
from lmjax.decode.contrast import Amateur, contrasted
from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate, stream
from lmjax.types import make_stream


def argmax_loop(name, prompt, *, prefix):
    """Greedy decoding with no cache, no batch and no padding of its own."""
    text = list(prompt)
    for _ in range(NEW):
        row = np.zeros((1, 13), np.int32)
        row[0, : len(text)] = text
        prefix_length = jnp.array(len(prompt) if prefix else 0)
        logits = last_logits(name)(built(name)[1], row, jnp.array(len(text)), prefix_length)
        text.append(int(jnp.argmax(logits)))
    return text[len(prompt) :]


@pytest.mark.parametrize("attention", ["causal", "prefix"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "encoder_decoder"])
def test_greedy_text_is_that_of_an_argmax_loop_over_the_whole_text(name, attention):
    texts = sample(name, attention=attention, max_length=13)
    assert texts == [argmax_loop(name, prompt, prefix=attention == "prefix") for prompt in PROMPTS]
    # A prompt of one token has no direction; the others read otherwise.
    assert len({tuple(text) for text in texts}) > 1


def test_an_encoder_reads_the_prompt_and_the_decoder_writes_from_the_start_token():
    """As an argmax loop with no cache, no batch and no padding writes."""
    spec, params = built("encoder_decoder")

    @jax.jit
    def next_logits(source_1S, length, text_1T, position):
        stream = make_stream(text_1T, None, "causal")
        end_1S, end_1T = (jnp.full((1, size), length) for size in (source_1S.shape[1], text_1T.shape[1]))
        reading = masks.IntervalMask(start_BT=end_1S * 0, end_BT=end_1S)
        encoder = dataclasses.replace(make_stream(source_1S, None, "bidirectional"), mask=reading)
        cross_mask = masks.IntervalMask(start_BT=end_1T * 0, end_BT=end_1T)
        model = spec.bind(params)
        return model.logits(model(stream, encoder=encoder, cross_mask=cross_mask).states_BTD[0, position])

    def row(text, size):
        return jnp.asarray([[*text, *[0] * (size - len(text))]], jnp.int32)

    wanted = []
    for prompt in PROMPTS:
        text = [START]
        for _ in range(NEW):
            logits = next_logits(row(prompt, 7), len(prompt), row(text, 1 + NEW), len(text) - 1)
            text.append(int(jnp.argmax(logits)))
        wanted.append(text[1:])
    assert sample("encoder_decoder", start_id=START) == wanted
    assert len(set(map(tuple, wanted))) == len(PROMPTS)
    # Neither stack of a model with learned positions can go beyond them.
    for prompts, new in (([[1] * 9], 2), ([[1]], 9)):
        with pytest.raises(ValueError, match=r"make \d+ positions and the model has learned 8"):
            sample("encoder_decoder", prompts, new=new, start_id=START, max_length=8)


def test_a_start_token_goes_with_an_encoder():
    with pytest.raises(ValueError, match="start_id=None: a model with an encoder needs one"):
        sample("encoder_decoder")
    with pytest.raises(ValueError, match="start_id=7: .* no other model takes it"):
        sample("rope_gqa", start_id=START)


def test_the_two_ways_to_read_a_prompt_differ():
    assert sample("rope_gqa", attention="prefix") != sample("rope_gqa", attention="causal")


def test_the_choice_among_one_is_greedy():
    greedy = sample("rope_gqa")
    for sampling in (SamplingConfig(top_k=1), SamplingConfig(top_p=1e-6), SamplingConfig(min_p=1.0)):
        assert sample("rope_gqa", sampling=sampling, seed=3) == greedy
    assert sample("rope_gqa", sampling=SamplingConfig(), seed=3) != greedy


def test_eos_ends_its_row_and_no_other():
    texts = sample("learned")
    # A token that comes up at another step in each row, and in one not at all, is made the end of text.
    eos = texts[0][3]
    ends = [text.index(eos) if eos in text else NEW for text in texts]
    assert len(set(ends)) == 4 and NEW in ends
    wanted = [text[:end] for text, end in zip(texts, ends, strict=True)]
    assert sample("learned", vocabulary=dataclasses.replace(NO_EOS, eos_id=eos)) == wanted


def test_ids_that_no_tokenizer_has_are_never_chosen():
    small = dataclasses.replace(NO_EOS, size=20, byte_length_V=NO_EOS.byte_length_V[:20])
    flat = SamplingConfig(temperature=100.0)
    ids = np.concatenate(sample("rope_gqa", [[1]] * 16, vocabulary=small, sampling=flat, new=24))
    assert set(ids) == set(range(20))
    assert np.concatenate(sample("rope_gqa", [[1]] * 16, sampling=flat, new=24)).max() > 20


def test_the_seed_decides_the_text():
    flat = SamplingConfig(temperature=3.0)
    first = sample("rope_gqa", [[1, 2]] * 2, sampling=flat, seed=1)
    assert first == sample("rope_gqa", [[1, 2]] * 2, sampling=flat, seed=1)
    assert first != sample("rope_gqa", [[1, 2]] * 2, sampling=flat, seed=2)
    assert first[0] != first[1]


@pytest.mark.long
@pytest.mark.parametrize("name", ["rope_gqa", "hybrid"])
def test_a_prompts_text_is_the_same_whatever_the_batch(name):
    flat = SamplingConfig(temperature=2.0, repetition_penalty=1.5)
    together = sample(name, [*PROMPTS, PROMPTS[1]], sampling=flat, seed=5)
    for prompt, text in zip(PROMPTS, together, strict=False):
        assert sample(name, [prompt], sampling=flat, seed=5) == [text]
    # The second of two equal prompts gets another text, as the second sample of a prompt does.
    assert together[1] != together[4]
    assert sample(name, [PROMPTS[1]] * 2, sampling=flat, seed=5) == [together[1], together[4]]


def test_text_that_is_yielded_while_it_is_made_is_the_whole_text():
    spec, params = built("learned")
    texts = sample("learned")
    eos = texts[0][3]
    vocabulary = dataclasses.replace(NO_EOS, eos_id=eos)
    options = {"vocabulary": vocabulary, "sampling": GREEDY}
    steps = list(stream(spec, params, PROMPTS, max_new_tokens=NEW, every=2, **options))
    assert len(steps) == 3 and all(len(piece) <= 2 for pieces in steps for piece in pieces)
    joined = [[token for pieces in steps for token in pieces[row]] for row in range(len(PROMPTS))]
    assert joined == sample("learned", vocabulary=vocabulary)
    # Each row may have a limit of its own; a row at its limit has the beginning of the text.
    limits = [1, 6, 3, 2]
    limited = generate(spec, params, PROMPTS, max_new_tokens=limits, max_length=9, **options)
    assert limited == [text[:limit] for text, limit in zip(joined, limits, strict=True)]


def test_contrastive_decoding_takes_what_the_amateur_would_not():
    """As a loop over whole texts, without caches, that scores tokens by hand."""
    name, other = "rope_gqa", tiny.random_params(built("rope_gqa")[0], seed=1)
    amateur = Amateur(spec=built(name)[0], params=other, plausibility=0.05, temperature=0.5)
    wanted = []
    for prompt in PROMPTS:
        text = list(prompt)
        for _ in range(NEW):
            row = np.zeros((1, 13), np.int32)
            row[0, : len(text)] = text
            expert, weak = (
                np.asarray(last_logits(name)(params, row, jnp.array(len(text)), jnp.array(0)), np.float64)
                for params in (built(name)[1], other)
            )
            log_expert, log_weak = (np.asarray(jax.nn.log_softmax(x)) for x in (expert, weak / 0.5))
            score = np.where(log_expert >= log_expert.max() + np.log(0.05), log_expert - log_weak, -np.inf)
            text.append(int(np.argmax(score)))
        wanted.append(text[len(prompt) :])
    assert sample(name, amateur=amateur) == wanted
    assert wanted != sample(name)
    # A model has nothing over itself: all plausible tokens score 0.
    logits = jnp.array([[1.0, 0.0, -5.0]])
    same = Amateur(spec=built(name)[0], params=other, plausibility=0.1)
    np.testing.assert_array_equal(contrasted(logits, logits, same), [[0.0, 0.0, -np.inf]])
    for wrong in ({"plausibility": 0.0}, {"plausibility": float("nan")}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="must be above 0"):
            dataclasses.replace(same, **wrong)


def test_sampling_follows_the_models_probabilities():
    """The first token of 4,000 rows comes up as often as the softmax says, within 4 standard errors."""
    name, prompt = "rope_gqa", PROMPTS[0]
    row = np.zeros((1, 13), np.int32)
    row[0, : len(prompt)] = prompt
    logits = last_logits(name)(built(name)[1], row, jnp.array(len(prompt)), jnp.array(0))
    probability = np.asarray(jax.nn.softmax(logits / 2.0))
    texts = sample(name, [prompt] * 4000, sampling=SamplingConfig(temperature=2.0), new=1)
    share = np.bincount(np.ravel(texts), minlength=64) / 4000
    assert (np.abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / 4000) + 1e-3).all()


@pytest.mark.long
def test_penalties_see_prompt_and_text_of_their_own_row():
    # All logits are alike: what is chosen is the lowest id that no penalty touches.
    silent = jax.tree.map(jnp.zeros_like, built("rope_gqa")[1])
    once = SamplingConfig(temperature=0.0, no_repeat_ngram=1)
    assert sample("rope_gqa", [[0, 2], [1]], params=silent) == [[0] * NEW] * 2
    texts = sample("rope_gqa", [[0, 2, 5], [1]], params=silent, sampling=once)
    assert texts == [[1, 3, 4, 6, 7, 8], [0, 2, 3, 4, 5, 6]]
    penalty = SamplingConfig(temperature=0.0, presence_penalty=1.0)
    assert sample("rope_gqa", [[0, 2, 5], [1]], params=silent, sampling=penalty) == [[0, 1, 2, 3, 4, 5]] * 2
    # Equal counts fall back to the lowest id, so a frequency penalty goes round a vocabulary of three.
    three = dataclasses.replace(NO_EOS, size=3, byte_length_V=NO_EOS.byte_length_V[:3])
    frequency = SamplingConfig(temperature=0.0, frequency_penalty=0.5)
    assert sample("rope_gqa", [[0]], params=silent, vocabulary=three, sampling=frequency) == [[0, 1, 2, 0, 1, 2]]
    repetition = SamplingConfig(temperature=0.0, repetition_penalty=1e6)
    [text] = sample("rope_gqa", [[1, 2]], sampling=repetition)
    assert text != sample("rope_gqa", [[1, 2]])[0]


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([[1]], {"attention": "bidirectional"}, "trained bidirectionally"),
        ([[1], []], {}, "at least one token"),
        ([], {}, "at least one token"),
        ([[1], [1] * 8], {"max_length": 13}, "make 14 positions and the model has learned 13"),
    ],
)
def test_what_cannot_be_continued_is_refused(prompts, options, words):
    with pytest.raises(ValueError, match=words):
        sample("learned", prompts, **options)
