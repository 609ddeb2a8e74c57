"""A run that begins with another's weights: what enters where, what is refused, and going on bit for bit."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny

from lmjax.data.config import DataConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import DPO, CausalLM, PairwiseReward
from lmjax.parallel.mesh import MeshConfig
from lmjax.runs import open as open_run
from lmjax.tokenizers import TokenizerConfig
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.initial import check_initial, initial_params
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.run_folder import CHECKPOINTS, claim
from lmjax.train.setup import build_learner, resolve

pytestmark = pytest.mark.run

TOKENS = TokenizerConfig(kind="bytes")
TOKENIZER = ByteTokenizer({name: 256 + i for i, name in enumerate(TOKENS.all_special_tokens)})
MODEL = dataclasses.replace(
    tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"), vocab_size=0, pad_vocab_to=1
)
PAIRS = DataConfig(members=("a", "b"), packing="examples")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The runs of this file use one device: eight would only cost time."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)


def run_config(folder, **changes):
    return RunConfig(**{"name": "tiny", "folder": str(folder), "model": MODEL, "tokenizer": TOKENS} | changes)


def learner_of(config, tokenizer=TOKENIZER):
    config = resolve(config, tokenizer.vocabulary)
    return config, build_learner(config, tokenizer.vocabulary, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of a causal model with checkpoints of two steps; their parameters by step."""
    folder = tmp_path_factory.mktemp("source") / "run"
    config, learner = learner_of(run_config(folder, mesh=MeshConfig(data=1)))
    claim(config, TOKENIZER)
    params = {}
    with Checkpoints(folder / CHECKPOINTS, CheckpointConfig()) as checkpoints:
        for step in (1, 2):
            params[step] = tiny.random_params(learner.spec, seed=step, scale=0.1)
            checkpoints.save(step, {"params": params[step]})
    return folder, params


@pytest.fixture
def preferences(source, tmp_path):
    """A DPO run on a few pairs, which begins with the source's model."""
    path = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": "a" * (n % 4 + 1)} for n in range(40)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return lambda name, **changes: run_config(
        tmp_path / name,
        objective=DPO(beta=0.5),
        data=DataConfig(
            path=str(path),
            prompt_field="prompt",
            members=("chosen", "rejected"),
            packing="examples",
            valid_fraction=0.0,
            prepared=str(tmp_path / "data"),
        ),
        train=TrainConfig(
            steps=4, batch_size=8, sequence_length=12, log_every=1, tensorboard=False,
            init_from=str(source[0]),
        ),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every_steps=2),
        **changes,
    )  # fmt: skip


def test_preferences_begin_with_a_pretrained_model_and_go_on_bit_for_bit(source, preferences, monkeypatch):
    whole = train(preferences("whole"))
    lines = read_metrics(whole.folder)
    assert lines[0]["train/loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
    stops = iter([2, None])
    for _ in range(2):
        stop = next(stops)
        monkeypatch.setattr("lmjax.train.guard.GracefulExit.should_stop", lambda self, step, stop=stop: step == stop)
        halves = train(preferences("halves"))
    assert halves.step == 4
    params = [open_run(result.folder).params for result in (whole, halves)]
    jax.tree.map(np.testing.assert_array_equal, *params)
    policy, reference = params[0]["model"], params[0]["extras"]["reference"]
    jax.tree.map(np.testing.assert_array_equal, reference, source[1][2]["model"])
    assert not np.array_equal(policy["embedding"]["table_VD"], reference["embedding"]["table_VD"])
    numbers = [[line["train/loss"] for line in read_metrics(result.folder)] for result in (whole, halves)]
    assert numbers[0] == numbers[1]


def test_a_checkpoint_is_chosen_by_its_folder(source, tmp_path):
    folder, params = source
    _, learner = learner_of(run_config(tmp_path / "new", objective=PairwiseReward(), data=PAIRS))
    first = initial_params(learner, folder / CHECKPOINTS / "1", seed=0)
    score = first.pop("extras")["score"]["weight"]
    jax.tree.map(np.testing.assert_array_equal, first, params[1])
    assert np.std(score) == pytest.approx(MODEL.width**-0.5, rel=0.5)


def test_what_cannot_be_begun_with_is_refused_before_anything_is_read(source, tmp_path):
    folder, _ = source

    def refusal(path=folder, tokenizer=TOKENIZER, **changes):
        _, learner = learner_of(run_config(tmp_path / "new", **changes), tokenizer)
        with pytest.raises(ValueError) as error:
            check_initial(learner, path)
        return str(error.value)

    assert "is not a run folder: it has no config.json" in refusal(tmp_path / "nowhere")
    assert "of that run there are steps [1, 2]" in refusal(folder / CHECKPOINTS / "3")
    others = ByteTokenizer({"<pad>": 256})
    foreign = refusal(tokenizer=others)
    assert "was trained with another tokenizer than the data's" in foreign
    assert f"set tokenizer.path to {folder / 'tokenizer'}" in foreign
    deeper = refusal(model=dataclasses.replace(MODEL, num_layers=2))
    assert "is of another model (missing there: model.tail.001.attention.key.weight, " in deeper and " more)" in deeper
    wider = refusal(model=dataclasses.replace(MODEL, feedforward_width=64))
    assert (
        "of another shape: model.tail.000.feedforward.down.weight (float32[32, 16] there, float32[64, 16] here)"
        in wider
    )
    shallower = refusal(model=dataclasses.replace(MODEL, qk_norm="head"), objective=CausalLM())
    assert "missing there: model.tail.000.attention.key_norm.scale" in shallower
    assert str(folder / "config.json") in deeper
