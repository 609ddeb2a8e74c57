"""Checkpoints of earlier versions: their leaves are found under their former names."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax import runs
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import named_leaves
from lmjax.models.with_extras import trained_spec
from lmjax.objectives import DPO, CausalLM, Contrastive, ReplacedToken
from lmjax.runs.new_run import make_run
from lmjax.tokenizers import TokenizerConfig
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.checkpoint import checkpoints as writing
from lmjax.train.checkpoint.format import FORMAT, format_of, saved_names
from lmjax.train.config import RunConfig
from lmjax.train.setup import resolve

TOKENS = TokenizerConfig(kind="bytes")
TOKENIZER = ByteTokenizer({name: 256 + i for i, name in enumerate(TOKENS.all_special_tokens)})
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
TWO_ENCODERS = Contrastive(pairs="given", separate_encoders=True, learn_temperature=True)
FORMER_MODEL = {ReplacedToken: "discriminator."}


def former_name(name: str, model: str) -> str:
    """As format 1 called a leaf, where the model's own were under ``model``."""
    return re.sub(r"(^|\.)extras\.", r"\1", re.sub(r"(^|\.)model\.", rf"\1{model}", name, count=1), count=1)


def write_as_format_1(monkeypatch, model: str = "") -> None:
    """Makes checkpoints that are saved from here on those of an earlier version."""
    monkeypatch.setattr(
        writing,
        "named_leaves",
        lambda state: {former_name(name, model): leaf for name, leaf in named_leaves(state).items()},
    )
    monkeypatch.setattr(writing, "FORMAT", 1)


@pytest.mark.parametrize("objective", [DPO(), ReplacedToken(generator_ratio=0.5), TWO_ENCODERS], ids=lambda o: type(o))
def test_a_state_saved_under_former_names_is_read_whole(objective, tmp_path, monkeypatch):
    learner = tiny.learner(objective, model=MODEL, ema_decay=0.9)
    state = learner.init(0)
    with monkeypatch.context() as patch:
        write_as_format_1(patch, FORMER_MODEL.get(type(objective), ""))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, state)
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(learner.abstract_state)
        average, _ = checkpoints.restore_params(learner.abstract_state.params)
        # The next save has today's names.
        checkpoints.save(2, dataclasses.replace(restored, step=restored.step + 2))
        checkpoints.wait()
        again, _ = checkpoints.restore(learner.abstract_state, step=2)
    for found in (restored, dataclasses.replace(again, step=state.step)):
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
            key = jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key)
            np.testing.assert_array_equal(*(jax.random.key_data(leaf) if key else leaf for leaf in (ours, theirs)))
    jax.tree.map(np.testing.assert_array_equal, average, state.ema)


def test_a_run_of_an_earlier_version_is_exported_as_it_would_be_now(tmp_path, monkeypatch):
    config = RunConfig(name="tiny", model=dataclasses.replace(MODEL, vocab_size=0), tokenizer=TOKENS)
    config = resolve(config, TOKENIZER.vocabulary)
    spec = trained_spec(lambda key: CausalLM().build(config.model, rngs=nnx.Rngs(params=key)))
    params = tiny.random_params(spec)
    make_run(tmp_path / "today", config, TOKENIZER, params)
    with monkeypatch.context() as patch:
        write_as_format_1(patch)
        make_run(tmp_path / "former", config, TOKENIZER, params)
    exported = []
    for name in ("today", "former"):
        runs.export_hf(runs.open(tmp_path / name), tmp_path / f"{name}_exported")
        exported.append((tmp_path / f"{name}_exported" / "model.safetensors").read_bytes())
    assert exported[0] == exported[1]


def test_another_model_is_refused_by_todays_names(tmp_path, monkeypatch):
    learner = tiny.learner(CausalLM(), model=MODEL)
    write_as_format_1(monkeypatch)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": tiny.random_params(learner.spec)})
        checkpoints.wait()
        wider = tiny.learner(CausalLM(), model=dataclasses.replace(MODEL, width=32))
        with pytest.raises(ValueError, match=r"params.model.embedding.table_VD is float32\[64, 16\] there"):
            checkpoints.restore_params(wider.abstract_state.params)


def test_names_of_format_1():
    saved = ["params.embedding.table_VD", "ema.stack.projection.bias", "opt_state.0.mu.reference.tail.000.x", "step"]
    wanted = [
        "params.model.embedding.table_VD", "ema.model.projection.bias", "opt_state.0.mu.extras.reference.tail.000.x",
        "step",
    ]  # fmt: skip
    assert list(saved_names(wanted, saved, number=1).values()) == saved
    assert list(saved_names(wanted, wanted, number=FORMAT).values()) == wanted
    assert format_of({}) == 1 and format_of({"format": 2}) == 2


def test_a_checkpoint_of_a_later_version_is_refused_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "FORMAT", FORMAT + 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": {"w": jnp.ones(3)}})
        checkpoints.wait()
        with pytest.raises(ValueError, match=r"/1: it has format 3 and this version of lmjax reads formats up to 2"):
            checkpoints.restore_params({"w": jax.ShapeDtypeStruct((3,), np.float32)})
        assert checkpoints.steps() == [1]
