"""Weights that fit are not yet the same model: what differs is listed, and what changes the function refused."""

import dataclasses
import json

import pytest

from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.rope import RopeScaling
from lmjax.models.routing import ExpertsConfig
from lmjax.objectives import MaskedLM
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.config_file import to_json, write_config
from lmjax.train.other_run import check_same_model, effective, model_differences, model_of_run

pytestmark = pytest.mark.run

MODEL = ModelConfig(vocab_size=64, width=16, num_layers=2, num_heads=2)
CHANGES = {
    "norm_epsilon": 0.5, "activation": "geglu", "logit_softcap": 1.0, "attention_softcap": 2.0, "rope_theta": 100.0,
    "windows": (2,), "norm_scale_offset": True, "scale_embeddings": True, "attention_scale": 1.0, "logit_scale": 0.5,
    "rope_fraction": 0.5, "positions": "none", "residual": "parallel", "final_norm": False,
    "experts": ExpertsConfig(number=2), "width_base": 8,
}  # fmt: skip
FREE_CHANGES = {
    "dropout": 0.1, "attention_dropout": 0.1, "max_length": 99, "init_std": 0.1,
    "rope_scaling": RopeScaling(kind="linear", factor=2.0),
    "execution": ExecutionConfig(dtype="bfloat16", remat="none", attention="chunked", scan_layers=False),
}  # fmt: skip


def run(model=MODEL, **changes):
    train = TrainConfig(init_from="runs/other", **changes)
    return RunConfig(name="new", model=model, train=train)


@pytest.mark.parametrize("field", CHANGES)
def test_what_changes_the_function_is_refused_unless_named(field):
    there, here = run(), dataclasses.replace(MODEL, **{field: CHANGES[field]})
    with pytest.raises(ValueError, match=rf"model\.{field}.*there.*here") as error:
        check_same_model(there, run(here))
    assert "train.init_from=runs/other" in str(error.value) and "--train.init-changes" in str(error.value)
    lines = check_same_model(there, run(here, init_changes=(field,)))
    assert lines and all(line.startswith(f"model.{field}") for line in lines)


@pytest.mark.parametrize("field", FREE_CHANGES)
def test_what_is_changed_on_purpose_gets_a_line(field):
    here = run(dataclasses.replace(MODEL, **{field: FREE_CHANGES[field]}))
    assert any(line.startswith(f"model.{field}") and " -> " in line for line in check_same_model(run(), here))


def test_every_differing_field_is_named_at_once():
    here = dataclasses.replace(MODEL, norm_epsilon=0.5, logit_softcap=1.0, rope_theta=100.0, dropout=0.1)
    with pytest.raises(ValueError) as error:
        check_same_model(run(), run(here))
    message = str(error.value)
    for said in (
        "model.norm_epsilon: 1e-05 there, 0.5 here",
        "model.logit_softcap: None there, 1.0",
        "model.rope_theta",
    ):
        assert said in message
    assert "dropout" not in message


def test_what_comes_to_the_same_is_no_difference():
    spelled = dataclasses.replace(
        MODEL, num_kv_heads=2, head_width=8, feedforward_width=MODEL.hidden_width, norm_bias=False, qkv_bias=False,
        out_bias=False,
        attention_scale=8**-0.5, windows=(None, None), mixers=("attention",) * 2, local_rope_theta=1.0,
        relative_buckets=8,
    )  # fmt: skip
    assert model_differences(MODEL, spelled) == {} and check_same_model(run(), run(spelled)) == []
    learned = dataclasses.replace(MODEL, positions="learned")
    assert model_differences(learned, dataclasses.replace(learned, rope_theta=1.0)) == {}


def test_every_field_of_the_model_is_compared():
    left_out = {field.name for field in dataclasses.fields(ModelConfig)} - {
        path.split(".")[0] for path in effective(MODEL)
    }
    assert left_out <= {
        "local_rope_theta", "relative_buckets", "relative_max_distance", "relative_past_only", "relative_per_layer",
        "share_encoder_embedding",
    }  # fmt: skip


def test_names_that_are_no_fields_and_options_without_effect_are_refused():
    with pytest.raises(ValueError, match="'norm_eps': the model has no such field"):
        check_same_model(run(), run(init_changes=("norm_eps",)))
    with pytest.raises(ValueError, match=r"train\.init_changes=.*set train\.init_from"):
        TrainConfig(init_changes=("norm_epsilon",))


def test_another_objective_gets_a_line():
    here = dataclasses.replace(run(), objective=MaskedLM())
    assert check_same_model(run(), here) == ["objective: CausalLM -> MaskedLM"]


def test_a_recipe_takes_the_model_of_a_run(tmp_path):
    model = dataclasses.replace(MODEL, norm_epsilon=0.25, windows=(8, None))
    write_config(run(model), tmp_path / "config.json")
    assert model_of_run(tmp_path) == model
    # Only the model is read: an objective of somebody else's is neither needed nor imported.
    content = to_json(run(model)) | {"objective": {"type": "this:s"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert model_of_run(str(tmp_path)) == model
    for damage in ("[]", "{", '{"model": 3}', "{}"):
        (tmp_path / "config.json").write_text(damage)
        with pytest.raises(ValueError, match=r"config\.json"):
            model_of_run(tmp_path)
    with pytest.raises(ValueError, match="is not a run folder"):
        model_of_run(tmp_path / "nowhere")
