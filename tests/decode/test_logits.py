import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.decode import logits as processors
from lmjax.decode.logits import SamplingConfig, choose, penalize, restrict

LOGITS = jnp.array([[2.0, 1.0, 0.0, -1.0, -2.0]])


def run(case, logits, previous, length=None):
    """An oracle case by the function of ours."""
    args = dict(case["args"])
    name = case["name"]
    if name.startswith("top_p"):
        return processors.top_p(logits, args["top_p"], keep=args.get("min_tokens_to_keep", 1))
    if name == "repetition_penalty":
        return processors.repetition_penalty(logits, previous, args["penalty"], length=length)
    if name == "no_repeat_ngram":
        return processors.no_repeat_ngram(logits, previous, args["ngram_size"], length=length)
    if name == "frequency_presence":
        frequency, presence = args["frequency_penalty"], args["presence_penalty"]
        return processors.frequency_presence(logits, previous, frequency=frequency, presence=presence, length=length)
    (value,) = args.values()
    return getattr(processors, name)(logits, value)


NAMES = (
    "temperature", "top_k", "top_p", "top_p_min_keep", "min_p", "typical_p", "repetition_penalty",
    "no_repeat_ngram", "epsilon_cutoff", "frequency_presence",
)  # fmt: skip


@pytest.fixture
def cases(golden):
    return {case["name"]: case for case in json.loads((golden / "logits_processors.json").read_text())["cases"]}


def test_every_oracle_case_is_run(cases):
    assert sorted(cases) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_gives_the_same(cases, name):
    case = cases[name]
    logits, previous = jnp.array(case["logits"], jnp.float32), jnp.array(case["previous_ids"], jnp.int32)
    wanted = np.array([[-np.inf if x is None else x for x in row] for row in case["out"]], np.float32)
    assert not np.array_equal(wanted, logits)
    np.testing.assert_allclose(jax.jit(functools.partial(run, case))(logits, previous), wanted, rtol=1e-6)
    # What follows the text in its buffer is not looked at, in rows of other leading shape and in one alone.
    padded = jnp.pad(previous, ((0, 0), (0, 3)), constant_values=4)
    length = jnp.full((3,), previous.shape[1])
    np.testing.assert_allclose(run(case, logits, padded, length), wanted, rtol=1e-6)
    deeper = run(case, logits[:, None], padded[:, None], length[:, None])
    np.testing.assert_allclose(deeper[:, 0], wanted, rtol=1e-6)
    np.testing.assert_allclose(run(case, logits[1], previous[1]), wanted[1], rtol=1e-6)


def kept(logits):
    return np.flatnonzero(np.isfinite(logits[0])).tolist()


def test_what_is_kept_by_hand():
    # Probabilities 0.636, 0.234, 0.086, 0.032, 0.012; surprises 0.45, 1.45, 2.45, 3.45, 4.45; entropy 1.00.
    assert kept(processors.min_p(LOGITS, 0.3)) == [0, 1]
    assert kept(processors.min_p(LOGITS, 0.3, keep=3)) == [0, 1, 2]
    assert kept(processors.epsilon_cutoff(LOGITS, 0.05)) == [0, 1, 2]
    assert kept(processors.epsilon_cutoff(LOGITS, 0.9)) == [0]
    assert kept(processors.epsilon_cutoff(LOGITS, 0.9, keep=2)) == [0, 1]
    # Token 1 is 0.45 from the entropy and token 0 is 0.55.
    assert kept(processors.typical_p(LOGITS, 0.2)) == [1]
    assert kept(processors.typical_p(LOGITS, 0.3)) == [0, 1]
    assert kept(processors.typical_p(LOGITS, 0.2, keep=3)) == [0, 1, 2]
    assert kept(processors.typical_p(LOGITS, 1.0)) == [0, 1, 2, 3, 4]


def test_processors_pass_over_what_is_excluded_already():
    cut = LOGITS.at[0, 1].set(-jnp.inf)
    for process in (processors.top_p, processors.min_p, processors.typical_p, processors.epsilon_cutoff):
        out = np.asarray(process(cut, 0.05))
        assert not np.isnan(out).any() and out[0, 1] == -np.inf, process
    # Of 0.83, 0, 0.11, 0.04, 0.02, with entropy 0.59, token 0 is the nearest by far.
    assert kept(processors.typical_p(cut, 0.2)) == [0]
    penalised = processors.repetition_penalty(cut, jnp.array([[1, 0]]), 2.0)
    np.testing.assert_array_equal(penalised, [[1.0, -np.inf, 0.0, -1.0, -2.0]])


def test_counts_begin_after_the_prompt_and_end_with_the_text():
    previous = jnp.array([[3, 3, 1, 3, 2, 2], [0, 0, 0, 0, 4, 9]])
    counts = processors.token_counts(previous, 5, begin=jnp.array([1, 3]), length=jnp.array([4, 6]))
    np.testing.assert_array_equal(counts, [[0, 1, 0, 2, 0], [1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(processors.token_counts(jnp.array([-1, 0]), 3), [1, 0, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_repeated_ngram_against_looking_for_each(size):
    rng = np.random.default_rng(size)
    texts = rng.integers(0, 4, (40, 9))
    lengths = rng.integers(0, 10, 40)
    zeros = jnp.zeros((40, 4))
    banned = np.isinf(jax.jit(processors.no_repeat_ngram, static_argnums=2)(zeros, texts, size, length=lengths))
    for text, length, row in zip(texts.tolist(), lengths, banned, strict=True):
        text = text[:length]
        grams = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
        last = tuple(text[len(text) - size + 1 :]) if len(text) >= size - 1 else None
        assert row.tolist() == [last is not None and (*last, token) in grams for token in range(4)]
    assert banned.any() and not banned.all()


def test_every_option_reaches_the_choice():
    """With 4,000 draws each, which ids come up is what the option says."""
    logits = jnp.broadcast_to(LOGITS, (4000, 5))
    previous, prompt_length = jnp.array([[0, 2, 0, 0]] * 4000), jnp.full((4000,), 2)

    def drawn(**options):
        config = SamplingConfig(**options)
        length = jnp.full((4000,), 3)
        changed = penalize(logits, config, previous=previous, prompt_length=prompt_length, length=length)
        return set(np.asarray(choose(jax.random.key(0), changed, config)).tolist())

    assert drawn() == {0, 1, 2, 3, 4}
    assert drawn(temperature=0.0) == {0}
    assert drawn(temperature=0.05) == {0}
    assert drawn(top_k=2) == drawn(top_p=0.7) == drawn(min_p=0.3) == drawn(epsilon=0.1) == {0, 1}
    assert drawn(typical_p=0.2) == {1}
    assert drawn(no_repeat_ngram=2) == {0, 1, 3, 4}
    assert drawn(repetition_penalty=1e6, temperature=0.0) == {1}
    assert drawn(frequency_penalty=1.5, temperature=0.0) == {1}
    assert drawn(presence_penalty=1.5, temperature=0.0) == {1}
    # Token 2 is in the prompt only.
    assert drawn(frequency_penalty=50.0) == drawn(presence_penalty=50.0) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"min_p": 1.5}, "min_p=1.5"),
        ({"typical_p": -0.1}, "typical_p=-0.1"),
        ({"epsilon": 1.0}, "epsilon=1.0"),
        ({"no_repeat_ngram": 0}, "no_repeat_ngram=0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"logit_bias": ((1, float("nan")),)}, "logit_bias=nan"),
        ({"allowed_tokens": ()}, "no token is left"),
        ({"allowed_tokens": (1, 2), "banned_tokens": (2, 1)}, "no token is left"),
        ({"top_p_least": 2}, "set top_p too"),
        ({"top_p": 0.5, "top_p_least": 0}, "top_p_least=0"),
        ({"top_p": 0.5, "top_p_least": 3, "top_p_most": 2}, "top_p_most=2"),
        *(
            ({field: value}, re.escape(f"{field}={value}"))
            for field in (
                "temperature",
                "repetition_penalty",
                "frequency_penalty",
                "presence_penalty",
                "top_p",
                "min_p",
                "typical_p",
                "epsilon",
            )
            for value in (float("nan"), float("inf"), float("-inf"), 1e39, -1e39)
        ),
        ({"temperature": 1e-20}, "0 is greedy"),
        ({"top_k": float("nan")}, "top_k=nan"),
        ({"no_repeat_ngram": float("inf")}, "no_repeat_ngram=inf"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SamplingConfig(**options)


def test_the_hybrid_nucleus_keeps_neither_too_few_nor_too_many():
    """Probabilities 0.636, 0.234, 0.086, 0.032, 0.012."""
    assert kept(processors.top_p(LOGITS, 0.5)) == [0]
    assert kept(processors.top_p(LOGITS, 0.5, keep=3)) == [0, 1, 2]
    assert kept(processors.top_p(LOGITS, 0.99)) == [0, 1, 2, 3, 4]
    assert kept(processors.top_p(LOGITS, 0.99, most=2)) == [0, 1]
    assert kept(processors.top_p(LOGITS, 0.8, keep=1, most=4)) == [0, 1]
    # Of equal logits no more are kept either.
    assert len(kept(processors.top_p(jnp.zeros((1, 5)), 1.0, most=2))) == 2
    with pytest.raises(ValueError, match="top_p_most=2: must be at least top_p_least=3"):
        processors.top_p(LOGITS, 0.5, keep=3, most=2)


def test_given_tokens_are_favoured_or_excluded():
    biased = processors.logit_bias(LOGITS, ((1, 0.5), (4, -2.0), (1, 0.25)))
    np.testing.assert_allclose(biased, LOGITS + jnp.array([[0, 0.75, 0, 0, -2.0]]))
    assert kept(processors.allow_tokens(LOGITS, (1, 3))) == [1, 3]
    assert kept(processors.ban_tokens(LOGITS, (1, 3))) == [0, 2, 4]
    assert kept(processors.only_ids(LOGITS, 3)) == [0, 1, 2]
    np.testing.assert_array_equal(processors.ban_tokens(LOGITS[None], (1,))[0], processors.ban_tokens(LOGITS, (1,)))
    for process in (processors.allow_tokens, processors.ban_tokens):
        with pytest.raises(ValueError, match="token id 5 is not in the vocabulary of 5"):
            process(LOGITS, (5,))
    config = SamplingConfig(logit_bias=((2, 9.0),), allowed_tokens=(0, 1, 2), banned_tokens=(0,), temperature=0.0)
    changed = restrict(LOGITS, config, num_ids=5)
    assert kept(changed) == [1, 2] and choose(jax.random.key(0), changed, config).tolist() == [2]
    with pytest.raises(ValueError, match="banned_tokens: token id 7 .* vocabulary of 6"):
        SamplingConfig(banned_tokens=(7,)).check_ids(6)
    with pytest.raises(ValueError, match="no token is left"):
        SamplingConfig(banned_tokens=tuple(range(6))).check_ids(6)


def test_padding_never_enters_a_penalty():
    """With padding before, between and after, the logits are those of the text without it."""
    config = SamplingConfig(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25, no_repeat_ngram=2)

    def penalised(texts, length):
        shape = jnp.full((len(texts),), length)
        return penalize(
            jnp.broadcast_to(LOGITS, (len(texts), 5)),
            config,
            previous=jnp.array(texts),
            prompt_length=jnp.zeros_like(shape),
            length=shape,
            pad_id=0,
        )

    plain = penalised([[1, 2, 3, 1]], 4)
    assert plain[0, 0] == LOGITS[0, 0] and np.isneginf(plain[0, 2]) and plain[0, 1] < LOGITS[0, 1]
    np.testing.assert_array_equal(penalised([[0, 0, 1, 2, 3, 1]], 6), plain)
    np.testing.assert_array_equal(penalised([[1, 2, 3, 1, 0, 0]], 4), plain)
    # Two padded gaps are no repeated n-gram.
    assert np.isfinite(penalised([[1, 0, 3, 1, 0]], 5)).all()


def test_a_rows_choice_depends_on_its_own_key_alone():
    logits = jnp.zeros((6, 1000))
    keys = jax.random.split(jax.random.key(0), 6)
    whole = choose(keys, logits, SamplingConfig())
    assert len(set(whole.tolist())) > 3
    np.testing.assert_array_equal(choose(keys[2:4], logits[2:4], SamplingConfig()), whole[2:4])


def test_draws_follow_the_distribution():
    """A chi-square test over 100,000 draws, after a temperature and a hybrid nucleus that leaves four tokens."""
    config = SamplingConfig(temperature=1.5, top_p=0.99, top_p_most=4)
    draws = np.asarray(choose(jax.random.key(3), jnp.broadcast_to(LOGITS, (100_000, 5)), config))
    probability = np.asarray(jax.nn.softmax(LOGITS[0, :4] / 1.5))
    counts = np.bincount(draws, minlength=5)
    assert counts[4] == 0
    # With three degrees of freedom, 16.3 is exceeded once in a thousand times.
    assert np.sum((counts[:4] - 1e5 * probability) ** 2 / (1e5 * probability)) < 16.3


PREVIOUS = jnp.array([[0, 2]])
PROCESSORS = {
    "temperature": lambda value: processors.temperature(LOGITS, value),
    "top_k": lambda value: processors.top_k(LOGITS, value),
    "top_p": lambda value: processors.top_p(LOGITS, value),
    "min_p": lambda value: processors.min_p(LOGITS, value),
    "typical_p": lambda value: processors.typical_p(LOGITS, value),
    "epsilon": lambda value: processors.epsilon_cutoff(LOGITS, value),
    "repetition_penalty": lambda value: processors.repetition_penalty(LOGITS, PREVIOUS, value),
    "frequency_penalty": lambda value: processors.frequency_presence(LOGITS, PREVIOUS, frequency=value),
    "presence_penalty": lambda value: processors.frequency_presence(LOGITS, PREVIOUS, presence=value),
    "no_repeat_ngram": lambda value: processors.no_repeat_ngram(LOGITS, PREVIOUS, value),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_each_processor_refuses_what_the_configuration_does(name):
    for value in (float("nan"), float("inf"), -1e39):
        with pytest.raises(ValueError, match=f"{name}="):
            PROCESSORS[name](value)
    with pytest.raises(ValueError, match=f"{name}="):
        SamplingConfig(**{name: float("nan")})


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "uint32"])
def test_previous_tokens_may_be_of_any_integer_type(dtype):
    wide = jnp.zeros((1, 300)).at[0, 299].set(1.0)
    previous = np.array([[5, 7, 5, 7]])
    for function in (
        lambda text: processors.no_repeat_ngram(wide, text, 2),
        lambda text: processors.repetition_penalty(wide + 1, text, 2.0),
        lambda text: processors.frequency_presence(wide, text, frequency=1.0, presence=0.5),
    ):
        np.testing.assert_array_equal(function(previous.astype(dtype)), function(jnp.asarray(previous, jnp.int32)))
