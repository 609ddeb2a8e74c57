"""A run as an object: what it writes, how it scores, embeds and fills in, and that it is read from its folder."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import MODEL, untrained

import lmjax.runs
from lmjax.decode.beam import BeamConfig
from lmjax.decode.contrastive_search import ContrastiveSearch
from lmjax.decode.logits import SamplingConfig
from lmjax.models.config import ModelConfig
from lmjax.models.with_extras import extra_of
from lmjax.objectives import Contrastive, FillInMiddle, MaskedDiffusion, MaskedLM, PrefixLM, SpanCorruption
from lmjax.types import make_stream

TEXT_ONLY = SamplingConfig(allowed_tokens=tuple(range(97, 123)), temperature=2.0)
PROMPTS = ["one", "a longer prompt", "x"]


@pytest.fixture(scope="module")
def run():
    return untrained(add_eos=False)


@pytest.mark.long
def test_many_prompts_of_different_lengths_get_the_text_each_gets_alone(run):
    options = {"max_new_tokens": 5, "sampling": TEXT_ONLY, "seed": 3}
    together = run.sample(PROMPTS, **options)
    assert [run.sample(prompt, **options) for prompt in PROMPTS] == [[text] for text in together]
    assert run.sample(PROMPTS, batch_size=2, **options) == together
    several = run.sample(PROMPTS, num_samples=2, batch_size=3, **options)
    assert several[::2] == together and all(
        one != other for one, other in zip(several[::2], several[1::2], strict=True)
    )
    assert all(len(text) == 5 and text.isalpha() for text in several)


def test_a_stop_string_ends_its_own_text_only(run):
    options = {"max_new_tokens": 8, "sampling": TEXT_ONLY}
    texts = run.sample(PROMPTS, **options)
    stop = texts[1][3:5]
    expected = [text.split(stop)[0] for text in texts]
    assert run.sample(PROMPTS, stop=(stop,), **options) == expected and len(expected[1]) < 8
    with pytest.raises(ValueError, match="empty string"):
        run.sample("a", stop=("",))


def test_every_way_to_write_is_reached(run):
    options = {"max_new_tokens": 4, "sampling": dataclasses.replace(TEXT_ONLY, temperature=0.0)}
    greedy = run.sample(PROMPTS, **options)
    assert run.sample(PROMPTS, beam=BeamConfig(beams=1), **options) == greedy
    assert run.sample(PROMPTS, contrastive=ContrastiveSearch(candidates=1), **options) == greedy
    beams = run.sample(PROMPTS, beam=BeamConfig(beams=3), num_samples=2, batch_size=3, **options)
    assert len(beams) == 6 and beams[0] != beams[1]
    other = untrained(add_eos=False, seed=1)
    assert run.sample(PROMPTS, amateur=run.amateur(other), **options) != greedy
    with pytest.raises(ValueError, match="beam and contrastive"):
        run.sample("a", beam=BeamConfig(), contrastive=ContrastiveSearch())
    with pytest.raises(ValueError, match="top_k=3: concerns random choices"):
        run.sample("a", beam=BeamConfig(), sampling=SamplingConfig(temperature=0.0, top_k=3))
    with pytest.raises(ValueError, match="order=confidence: only a diffusion model"):
        run.sample("a", order="confidence")
    with pytest.raises(ValueError, match="has another tokenizer"):
        run.amateur(untrained(named=("<x>",)))
    with pytest.raises(ValueError, match="reads prompts with a prefix mask"):
        run.amateur(untrained(PrefixLM()))


def test_learned_positions_are_never_exceeded():
    short = untrained(model=dataclasses.replace(MODEL, positions="learned", max_length=12), add_eos=False)
    texts = short.sample(["abcdefghij", "ab"], sampling=TEXT_ONLY)
    assert [len(text) for text in texts] == [2, 10]
    assert texts == [short.sample(prompt, sampling=TEXT_ONLY)[0] for prompt in ("abcdefghij", "ab")]
    for act in (lambda: short.sample("abcdefghijklmn"), lambda: short.score(["a" * 14])):
        with pytest.raises(ValueError, match="has learned|have learned|the model has learned"):
            act()
    assert len(short.score(["a" * 13])[0].token_ids) == 12


@pytest.mark.parametrize("data", [{"add_eos": False}, {"add_bos": True}, {"add_eos": True}])
def test_scores_are_the_log_probabilities_of_a_forward_pass(data):
    run = untrained(**data)
    vocabulary = run.tokenizer.vocabulary
    before = [vocabulary.bos_id] if data.get("add_bos") else [vocabulary.eos_id] if data["add_eos"] else []
    texts = ["hello", "é", "a much longer text"]
    for text, score in zip(texts, run.score(texts), strict=True):
        ids = jnp.array([[*before, *text.encode()]])
        model = run.spec.bind(run.params)
        logits = model.logits(model(make_stream(ids, None, "causal")).states_BTD)[0]
        expected = jnp.take_along_axis(jax.nn.log_softmax(logits)[:-1], ids[0, 1:, None], axis=1)[:, 0]
        np.testing.assert_allclose(score.log_probabilities, expected, rtol=1e-4, atol=1e-5)
        assert score.token_ids == tuple(ids[0, 1:].tolist())
        assert score.loss == pytest.approx(-float(expected.mean()), rel=1e-4)
        # Each token is a byte, so bits per byte are the loss in bits.
        assert score.num_bytes == len(score.token_ids)
        assert score.bits_per_byte == pytest.approx(score.loss / math.log(2), rel=1e-6)
    assert math.isnan(run.score(["x"])[0].loss) == (not before)


def test_embeddings_are_those_the_objective_compares():
    run = untrained(
        Contrastive(separate_encoders=True, pairs="given"), members=("a", "b"), packing="examples", add_eos=False
    )
    texts = ["a text", "another", "a text"]
    queries = run.embed(texts)
    assert queries.shape == (3, 16) and queries.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(queries[0], queries[2], rtol=1e-5)
    np.testing.assert_allclose(run.embed(["another"])[0], queries[1], rtol=1e-4, atol=1e-6)
    model = run.spec.bind(run.params)
    ids = jnp.array([[*b"another"]])
    states = extra_of(model, "key_encoder")(make_stream(ids, None, "bidirectional")).states_BTD[0]
    mean = np.asarray(states).mean(axis=0)
    np.testing.assert_allclose(run.embed(["another"], role="key")[0], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="text 2 is empty"):
        run.embed(["a", ""])


@pytest.mark.parametrize("objective", [MaskedLM(), MaskedDiffusion(time_conditioning=True)])
def test_masks_are_named_with_probabilities(objective):
    run = untrained(objective, add_eos=False)
    (one, two), (three,) = run.fill_mask(["<mask> and <mask>", "a<mask>"], top=300)
    for candidates in (one, two, three):
        assert sum(candidate.probability for candidate in candidates) == pytest.approx(1.0, abs=1e-4)
        assert [c.probability for c in candidates] == sorted((c.probability for c in candidates), reverse=True)
    assert {c.token for c in three} >= {"a", "<mask>"}
    with pytest.raises(ValueError, match="has no mask: write <mask>"):
        run.fill_mask(["nothing"])


def test_a_gap_is_filled_after_prefix_and_suffix():
    run = untrained(FillInMiddle(), named=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), add_bos=True)
    names = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    prefix, suffix, middle = (run.tokenizer.special_tokens[name] for name in names)
    ids = run.middle_prompt("ab", "c")
    assert ids == [run.tokenizer.vocabulary.bos_id, prefix, *b"ab", suffix, *b"c", middle]
    (text,) = run.infill("ab", "c", max_new_tokens=4, sampling=TEXT_ONLY)
    assert len(text) == 4 and text.isalpha()
    assert run.infill("ab", "c", max_new_tokens=4, sampling=TEXT_ONLY, num_samples=2)[0] == text
    with pytest.raises(ValueError, match="<fim_prefix>"):
        untrained().infill("a", "b")


@pytest.mark.parametrize(
    ("objective", "act", "words"),
    [
        (MaskedLM(), lambda run: run.sample("a"), "does not continue text.*fill-mask"),
        (MaskedLM(), lambda run: run.score(["a"]), "MaskedLM does not read from left to right"),
        (MaskedLM(), lambda run: run.embed(["a"]), "objective Contrastive"),
        (None, lambda run: run.fill_mask(["<mask>"]), "lmjax sample"),
        (Contrastive(causal=True), lambda run: run.sample("a"), "Contrastive does not train a model's output layer"),
        (Contrastive(causal=True), lambda run: run.score(["a"]), "probabilities of tokens mean nothing.*lmjax embed"),
        (Contrastive(), lambda run: run.fill_mask(["<mask>"]), "it compares texts"),
        (None, lambda run: run.sample("a", num_samples=0), "num_samples=0"),
        (None, lambda run: run.sample("a", sampling=SamplingConfig(banned_tokens=(9999,))), "token id 9999"),
    ],
)
def test_what_a_model_cannot_do_is_refused(objective, act, words):
    with pytest.raises(ValueError, match=words):
        act(untrained(objective, add_eos=False))


def test_a_folder_is_opened_and_its_parameters_are_read_when_they_are_needed(run, tmp_path, monkeypatch):
    untrained(folder=tmp_path / "run", add_eos=False)
    opened = lmjax.runs.open(tmp_path / "run")
    assert "_restored" not in vars(opened)
    assert opened.sample("one", max_new_tokens=3) == run.sample("one", max_new_tokens=3)
    assert opened.step == 0 and "_restored" in vars(opened)
    with pytest.raises(ValueError, match="no checkpoint of step 7"):
        lmjax.runs.open(tmp_path / "run", step=7)
    with pytest.raises(ValueError, match="config.json"):
        lmjax.runs.open(tmp_path / "nothing")


@pytest.mark.long
def test_an_encoder_decoder_answers_many_prompts():
    model = ModelConfig(width=16, num_layers=1, encoder_layers=1, num_heads=2, feedforward_width=32)
    run = untrained(SpanCorruption(form="encoder_decoder"), model=model, add_eos=False)
    options = {"max_new_tokens": 4, "sampling": TEXT_ONLY}
    together = run.sample(PROMPTS, **options)
    assert together == [run.sample(prompt, **options)[0] for prompt in PROMPTS]
    assert len(run.sample(PROMPTS, beam=BeamConfig(beams=2), max_new_tokens=4)) == 3
