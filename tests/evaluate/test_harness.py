"""lm-evaluation-harness on runs: tasks of local files, and the numbers of its own backend for the exported model."""

import json
import math
import os

import pytest
from local_tasks import CHOICES, KINDS, TEXTS, WRITING, write_tasks
from untrained import untrained

from lmjax.decode.logits import SamplingConfig
from lmjax.objectives import MaskedLM, PairwiseReward
from lmjax.runs import export_hf

# Read when the libraries of Hugging Face are imported.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from lmjax.evaluate import harness
from lmjax.evaluate.harness import HarnessModel, evaluate_tasks
from lmjax.train.evaluations.text_files import TextFiles

WINDOW = 16


@pytest.fixture(scope="module")
def run():
    return untrained(add_bos=True)


def instances(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=n) for n, one in enumerate(arguments)]


def test_local_tasks_of_every_kind_are_measured(run, tmp_path):
    found = evaluate_tasks(run, list(KINDS), task_path=write_tasks(tmp_path), window=WINDOW)
    assert found.keys() == set(KINDS)
    # Bytes as tokens: the probability of a choice is that of its bytes after the question.
    picks = []
    for doc in CHOICES:
        texts = [f"{doc['question']} {choice}"[-WINDOW:] for choice in doc["choices"]]
        assert all(len(text.encode()) <= WINDOW for text in texts)
        whole = run.score(texts)
        sizes = [len(f" {choice}".encode()) for choice in doc["choices"]]
        sums = [score.log_probabilities[-size:].sum() for score, size in zip(whole, sizes, strict=True)]
        picks.append(max(range(3), key=sums.__getitem__) == doc["answer"])
    assert found["local_choice"]["acc"] == pytest.approx(sum(picks) / 3)
    assert 0 <= found["local_writing"]["exact_match"] <= 1
    assert math.log2(found["local_text"]["byte_perplexity"]) == pytest.approx(found["local_text"]["bits_per_byte"])


def test_rolling_is_the_sliding_window_whose_stride_is_the_window(run, tmp_path):
    model = HarnessModel(run, window=WINDOW)
    totals = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in TEXTS]))
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
    options = {"name": "t", "files": (str(tmp_path),), "window": WINDOW}
    reading = run.evaluate(TextFiles(**options, stride=WINDOW))
    per_file = [part["loss"] * part["tokens"] for part in reading.tables["file"].values()]
    assert totals == pytest.approx([-nats for nats in per_file], abs=1e-4)
    assert run.evaluate(TextFiles(**options, stride=3)).numbers["loss"] != reading.numbers["loss"]
    # A text that fits is scored as in one pass.
    assert totals[1] == pytest.approx(run.score(["short"])[0].log_probability, abs=1e-4)


def test_contexts_are_not_scored_and_begin_once(run):
    model = HarnessModel(run, window=WINDOW)
    bos = run.tokenizer.vocabulary.bos_id
    assert model.tok_encode("<bos>ab") == model.tok_encode("ab") == [bos, 97, 98]
    assert model.tok_encode("ab", add_special_tokens=False) == [97, 98]
    pairs = [("abc", "def"), ("", "def"), ("0123456789abc", "xyz123"), ("ab ", "c")]
    found = model.loglikelihood(instances("loglikelihood", pairs))
    (abc,), (xyz,), (space,) = run.score(["abcdef"]), run.score(["0123456789abc"[-10:] + "xyz123"]), run.score(["ab c"])
    assert found[0][0] == pytest.approx(abc.log_probabilities[3:].sum(), abs=1e-4)
    assert found[1][0] == pytest.approx(run.score(["def"])[0].log_probability, abs=1e-4)
    assert found[3][0] == pytest.approx(space.log_probabilities[2:].sum(), abs=1e-4)
    # The context lost its beginning, the token before the text included.
    assert found[2][0] != pytest.approx(xyz.log_probabilities[10:].sum(), abs=1e-4)
    greedy = run.sample("abc", max_new_tokens=2, sampling=SamplingConfig(temperature=0.0))[0]
    ((_, is_greedy),) = model.loglikelihood(instances("loglikelihood", [("abc", greedy)]))
    assert is_greedy == (len(greedy.encode()) == 2)


def test_texts_are_written_greedily_up_to_a_stop(run):
    model = HarnessModel(run, window=40)
    options = {"until": ["q"], "max_gen_toks": 6, "do_sample": False}
    prompts = [doc["prompt"] for doc in WRITING]
    found = model.generate_until(instances("generate_until", [(prompt, options) for prompt in prompts]))
    sampling = SamplingConfig(temperature=0.0)
    assert found == run.sample(prompts, max_new_tokens=6, stop=("q",), sampling=sampling)
    for changes, words in (
        ({"max_gen_toks": 40}, "asks for 40 new tokens"),
        ({"num_beams": 3}, "num_beams.*cannot be"),
    ):
        with pytest.raises(ValueError, match=words):
            model.generate_until(instances("generate_until", [("a", options | changes)]))


def test_a_task_that_is_not_there(run, tmp_path, monkeypatch):
    tasks = write_tasks(tmp_path)
    # To list the harness' own tasks takes long, and they are not what this is about.
    monkeypatch.setattr(harness, "Tasks", LocalTasks)
    (tmp_path / "local_text.jsonl").unlink()
    for name, words in (
        ("no_such", "no task is called 'no_such': name one"),
        ("local_choic", "no task is called 'local_choic': did you mean local_choice"),
        ("local_text", "the tasks local_text cannot be loaded .*their data must be in the cache"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate_tasks(run, [name], task_path=tasks)
    with pytest.raises(ValueError, match="no folder: name one with task files"):
        evaluate_tasks(run, ["x"], task_path=tmp_path / "absent")


class LocalTasks(harness.Tasks):
    """Tasks of the given folder alone, whatever is asked for."""

    def __init__(self, *, include_path, include_defaults=False):
        super().__init__(include_path=include_path, include_defaults=False)


def test_a_filter_is_part_of_a_name():
    given = {"alias": "x", "em,none": 1.0, "em_stderr,none": 0.1, "em,strict": 0.5, "em_stderr,strict": "N/A"}
    assert harness._metrics(given) == {"em": 1.0, "em_stderr": 0.1, "em,strict": 0.5}


def test_runs_that_cannot_be_asked():
    with pytest.raises(ValueError, match="does not read from left to right"):
        HarnessModel(untrained(MaskedLM()))
    reward = untrained(PairwiseReward(), members=("a", "b"), packing="examples")
    with pytest.raises(ValueError, match="scores whole answers"):
        HarnessModel(reward)
    with pytest.raises(ValueError, match="needs a 'eos' token"):
        HarnessModel(untrained(special_tokens=("<pad>",), add_eos=False))


@pytest.mark.parity
def test_numbers_are_those_of_the_hf_backend_on_the_exported_model(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    run = untrained(add_eos=True)
    export_hf(run, tmp_path / "exported", family="llama")
    tasks = write_tasks(tmp_path)
    ours = evaluate_tasks(run, list(KINDS), task_path=tasks, window=WINDOW)
    prefix = run.tokenizer.vocabulary.eos_id
    theirs = HFLM(
        str(tmp_path / "exported"),
        max_length=WINDOW,
        prefix_token_id=prefix,
        device="cpu",
        dtype="float32",
        batch_size=2,
    )
    found = simple_evaluate(
        model=theirs, tasks=list(KINDS), task_manager=TaskManager(include_path=str(tasks)), bootstrap_iters=0
    )
    for task, metrics in ours.items():
        print(task, json.dumps(metrics), {k: v for k, v in found["results"][task].items() if "," in k})
        for name, value in metrics.items():
            if "stderr" not in name:
                assert value == pytest.approx(found["results"][task][f"{name},none"], rel=1e-5, abs=1e-4), (task, name)
    requests = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    expected = theirs.loglikelihood_rolling(requests)
    assert HarnessModel(run, window=WINDOW).loglikelihood_rolling(requests) == pytest.approx(expected, abs=1e-4)
    pairs = instances(
        "loglikelihood", [(doc["question"], f" {choice}") for doc in CHOICES for choice in doc["choices"]]
    )
    mine, other = HarnessModel(run, window=WINDOW).loglikelihood(pairs), theirs.loglikelihood(pairs)
    assert [one[0] for one in mine] == pytest.approx([one[0] for one in other], abs=1e-4)
    assert [one[1] for one in mine] == [one[1] for one in other]
    written = instances("generate_until", [(doc["prompt"], {"until": ["\n"], "max_gen_toks": 6}) for doc in WRITING])
    assert HarnessModel(run, window=WINDOW + 24).generate_until(written) == HFLM(
        str(tmp_path / "exported"), max_length=WINDOW + 24, device="cpu", dtype="float32", batch_size=2
    ).generate_until(written)
