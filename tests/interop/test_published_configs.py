"""Files of published models are read, and of their keys only those are refused that would change the model.

``tests/golden/published_configs.json`` holds what config.json files of published models say, but for lists of labels
and of tasks.
"""

import json
import re
import shutil

import hf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lmjax.interop import FAMILIES, load_pretrained
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.pretrained import read_config

CONFIGS = json.loads((hf.GOLDEN.parent / "published_configs.json").read_text())


def passed(family_name, values, **options):
    return read_config(FAMILIES[family_name], values, (), **options)[0].passed


@pytest.mark.parametrize("name", CONFIGS)
def test_published_files_are_read(name):
    values = CONFIGS[name]
    family = next(family for family in FAMILIES.values() if family.model_type == values["model_type"])
    hf_config, config = read_config(family, values, ())
    assert config.vocab_size == values["vocab_size"]
    assert not hf_config.passed.ignored
    # What is noted is in the file, and is not what the sizes come from.
    noted = hf_config.passed.not_read.keys() | hf_config.passed.training_only.keys()
    assert noted <= values.keys() and not noted & {"hidden_size", "vocab_size", "d_model", "n_embd"}


def test_commands_of_the_docs_name_models_whose_files_are_read():
    table = (hf.GOLDEN.parents[1].parent / "docs" / "models.md").read_text()
    named = set(re.findall(r"`lmjax import (\S+) ", table))
    assert {"bart-base", "gemma-3-1b-pt"} <= named & CONFIGS.keys()


def test_what_is_not_taken_over_is_noted():
    found = passed("bart", CONFIGS["bart-base"])
    assert found.training_only == {"activation_dropout": 0.1, "classif_dropout": 0.1}
    assert found.not_read == {"add_bias_logits": False} and not found.ignored
    found = passed("gpt2", CONFIGS["distilgpt2"] | {"embd_pdrop": 0.0, "sliding_window": 4})
    assert found.training_only["embd_pdrop"] == 0.0 and found.not_read["sliding_window"] == 4
    assert "resid_pdrop" not in found.training_only


def test_all_unknown_keys_are_named_at_once_and_pass_by_name():
    values = CONFIGS["llama-7b"] | {"twist": 3, "other": [1], "nothing": None}
    with pytest.raises(ValueError, match=r"what other=\[1\], twist=3 mean.*--ignore other twist"):
        passed("llama", values)
    with pytest.raises(ValueError, match="what twist=3 means.*--ignore twist"):
        passed("llama", values, ignore=("other",))
    assert passed("llama", values, ignore=("other", "twist")).ignored == {"other": [1], "twist": 3}


def test_an_ignored_key_is_as_if_it_were_not_there():
    values = CONFIGS["llama-7b"] | {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "tie_word_embeddings": True}
    with pytest.raises(ValueError, match="rope_scaling=.*'dynamic'"):
        passed("llama", values)
    _, config = read_config(FAMILIES["llama"], values, (), ignore=("rope_scaling", "tie_word_embeddings"))
    assert config.rope_scaling.kind == "none" and not config.tie_embeddings
    for key, said in (("rope_scalings", "has none of this name"), ("model_type", "which family")):
        with pytest.raises(ValueError, match=said):
            passed("llama", values, ignore=(key,))


@pytest.mark.parametrize("name", ["oracle_llama", "mistral", "mixtral", "qwen3", "olmo2", "gemma2"])
def test_heads_turn_as_a_whole_where_transformers_turns_them_so(name, tmp_path):
    """``partial_rotary_factor`` is read by transformers in few families, and these are not among them."""
    folder = shutil.copytree(hf.FOLDERS[name], tmp_path / "model")
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"partial_rotary_factor": 0.5}))
    model = load_pretrained(folder)
    assert model.config == load_pretrained(hf.FOLDERS[name]).config
    assert model.passed.not_read["partial_rotary_factor"] == 0.5
    # With scaled frequencies transformers would compute fewer of them than it then needs.
    linear = {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}
    path.write_text(json.dumps(values | linear | {"partial_rotary_factor": 0.5}))
    with pytest.raises(ValueError, match=r"partial_rotary_factor=0\.5.*'linear'"):
        load_pretrained(folder)


def test_gpt_neox_reads_its_own_names_of_rotary_settings_only():
    values = CONFIGS["gpt-neox-20b"]
    for changes, fraction, theta in (
        ({}, 0.25, 10_000),
        ({"partial_rotary_factor": 1.0, "rope_theta": 7.0}, 0.25, 10_000),
        ({"rotary_pct": 0.5, "rotary_emb_base": 99}, 0.5, 99),
        ({"rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": 7.0}}, 1.0, 7.0),
    ):
        _, config = read_config(FAMILIES["gpt_neox"], values | changes, ())
        assert (config.rope_fraction, config.rope_theta) == (fraction, theta)


def test_synonyms_are_the_key_they_stand_for():
    values = {key: value for key, value in CONFIGS["distilgpt2"].items() if key != "n_embd"}
    assert read_config(FAMILIES["gpt2"], values | {"hidden_size": 48, "num_hidden_layers": 6}, ())[1].width == 48
    with pytest.raises(ValueError, match="hidden_size=48 and n_embd=768 are two names"):
        HuggingFaceConfig({"hidden_size": 48, "n_embd": 768}, defaults={}, synonyms={"hidden_size": "n_embd"})


def test_attention_may_have_biases_that_the_feedforward_has_not(tmp_path):
    folder = shutil.copytree(hf.FOLDERS["llama_linear"], tmp_path / "model")
    path, weights = folder / "config.json", folder / "model.safetensors"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mlp_bias": False}))
    save_file({k: v for k, v in load_file(weights).items() if not re.search(r"mlp\..*bias", k)}, weights)
    config = load_pretrained(folder).config
    assert (config.bias, config.qkv_bias, config.out_bias) == (False, True, True)


def test_of_an_untied_head_the_bias_that_is_added_is_read(tmp_path):
    """Of the two that are stored, transformers adds the decoder's; files of older versions have the other one only."""
    folder = shutil.copytree(hf.FOLDERS["bert_untied"], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    unread, added = "cls.predictions.bias", "cls.predictions.decoder.bias"
    assert not np.array_equal(tensors[unread], tensors[added])
    np.testing.assert_array_equal(load_pretrained(folder).params["head_bias_V"], tensors[added].astype(np.float32))
    del tensors[added]
    save_file(tensors, folder / "model.safetensors")
    np.testing.assert_array_equal(load_pretrained(folder).params["head_bias_V"], tensors[unread].astype(np.float32))
    del tensors["cls.predictions.decoder.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"'cls\.predictions\.decoder\.weight' is missing"):
        load_pretrained(folder)
