"""Files of weights and configurations: shards, precisions, and everything that is refused, by name."""

import dataclasses
import json
import pathlib
import shutil

import hf
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lmjax.interop import FAMILIES, load_pretrained, save_pretrained
from lmjax.interop.saving import their_config
from lmjax.interop.tensors import INDEX, SINGLE, Weights
from lmjax.interop.windows import shortest_pattern
from lmjax.models.rope import RopeScaling


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """A copy of a Llama to spoil."""
    return shutil.copytree(hf.FOLDERS["llama3"], tmp_path / "model")


def edit(folder: pathlib.Path, **values) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_tensors(folder: pathlib.Path, change) -> None:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


def refusal(folder: pathlib.Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_pretrained(folder)
    return str(caught.value)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 20_000), ("bfloat16", 10_000)])
def test_shards_and_their_index(dtype, most, tmp_path):
    model = hf.loaded("llama3")
    save_pretrained(tmp_path / "one", model.config, model.params, dtype=dtype)
    save_pretrained(tmp_path / "many", model.config, model.params, dtype=dtype, shard_bytes=most)
    one, many = load_file(tmp_path / "one" / SINGLE), Weights(tmp_path / "many")
    index = json.loads((tmp_path / "many" / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))] and len(files) > 2
    sizes = [sum(array.nbytes for array in load_file(tmp_path / "many" / file).values()) for file in files]
    assert max(sizes) <= most and sum(sizes) == index["metadata"]["total_size"]
    assert not (tmp_path / "many" / SINGLE).exists() and one.keys() == set(many)
    stored = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
    for name, array in one.items():
        assert array.dtype == stored and many[name].dtype == np.float32
        np.testing.assert_array_equal(array.astype(np.float32), many[name])
    # The references are of bfloat16, so either precision gives them back.
    again = load_pretrained(tmp_path / "many", execution=model.config.execution)
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, again.params))


def test_damaged_shards_are_named(tmp_path):
    model = hf.loaded("llama3")
    save_pretrained(tmp_path, model.config, model.params, shard_bytes=20_000)
    index = json.loads((tmp_path / INDEX).read_text())
    shard = index["weight_map"]["model.norm.weight"]
    content = (tmp_path / shard).read_bytes()
    (tmp_path / shard).write_bytes(content[:100])
    assert f"{shard} is not safetensors, or damaged" in refusal(tmp_path)
    (tmp_path / shard).unlink()
    assert f"{shard} is missing, and {INDEX} lists it" in refusal(tmp_path)
    (tmp_path / shard).write_bytes(content)
    index["weight_map"]["elsewhere"] = shard
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert f"{shard} has no tensor 'elsewhere'" in refusal(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    assert f"{INDEX} is not an index" in refusal(tmp_path)


def test_pickled_weights_are_refused_unopened(folder):
    (folder / SINGLE).unlink()
    assert f"neither {SINGLE} nor {INDEX}" in refusal(folder)
    # Unpickling this would fail in another way.
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert "pytorch_model.bin, which is not safetensors" in refusal(folder)


def test_missing_superfluous_and_misshapen_tensors_are_named(folder):
    edit_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "tensor 'model.layers.1.mlp.up_proj.weight' is missing" in refusal(folder)
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.1.mlp.up_proj.weight": np.zeros((3, 32))}))
    assert "up_proj.weight' is [3, 32], and its config.json asks for [40, 32]" in refusal(folder)
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.1.mlp.up_proj.weight": np.zeros((40, 32))}))
    load_pretrained(folder)
    edit_tensors(folder, lambda tensors: tensors.update({"vision.weight": np.zeros(2), "score.weight": np.zeros(2)}))
    assert "2 tensors belong to no part" in refusal(folder) and "score.weight, vision.weight" in refusal(folder)
    edit_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": np.zeros(32, np.int8)}))
    assert "'model.norm.weight' is I8, quantised perhaps" in refusal(folder)


def test_a_decoder_saved_as_a_base_model_gets_a_new_head(folder):
    def without_head(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        tensors.pop("lm_head.weight")

    edit_tensors(folder, without_head)
    assert "tensor 'lm_head.weight' is missing" in refusal(folder)
    edit(folder, architectures=["LlamaModel"])
    model = load_pretrained(folder, execution=hf.loaded("llama3").config.execution)
    assert [*model.new] == ["head_weight_DV"] and "head_weight_DV" not in model.params
    kept = {name: part for name, part in hf.loaded("llama3").params.items() if name != "head_weight_DV"}
    assert jax.tree.all(jax.tree.map(np.array_equal, kept, model.params))
    edit_tensors(folder, lambda tensors: tensors.pop("norm.weight"))
    assert "'model.norm.weight' is missing" in refusal(folder)


def test_tied_tensors_may_be_stored_twice_if_they_are_equal(tmp_path):
    folder = shutil.copytree(hf.FOLDERS["oracle_gpt2"], tmp_path / "model")
    table = load_file(folder / SINGLE)["transformer.wte.weight"]
    mask = np.ones((1, 1, 32, 32), np.float32)
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": table, "transformer.h.0.attn.bias": mask}))
    load_pretrained(folder)
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": table + 1}))
    assert "'lm_head.weight' differs from 'transformer.wte.weight'" in refusal(folder)


def test_old_names_of_tensors_are_understood(tmp_path):
    for name, prefix in (("oracle_gpt2", "transformer."), ("bert", "")):
        folder = shutil.copytree(hf.FOLDERS[name], tmp_path / name)
        tensors = {
            key.removeprefix(prefix)
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta"): value
            for key, value in load_file(folder / SINGLE).items()
        }
        save_file(tensors, folder / SINGLE)
        params = load_pretrained(folder, execution=hf.loaded(name).config.execution).params
        assert jax.tree.all(jax.tree.map(np.array_equal, params, hf.loaded(name).params))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("llama3", {"model_type": "bloom"}, ("model_type 'bloom' is not known", "gpt2", "gpt_neox", "llama")),
        ("llama3", {"model_type": ...}, ("model_type None",)),
        ("llama3", {"hidden_size": ...}, ("no 'hidden_size'",)),
        ("llama3", {"hidden_size": "32"}, ("impossible type",)),
        ("llama3", {"hidden_act": "tanh"}, ("hidden_act='tanh' is not implemented", "silu")),
        ("olmo2", {"attention_bias": True}, ("attention_bias=True is not implemented",)),
        ("llama3", {"rope_parameters": {"rope_type": "longrope"}}, ("'longrope'", "linear, llama3, yarn")),
        ("llama3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "twist": 1}}, ("its key 'twist'",)),
        ("llama3", {"quantization_config": {"bits": 4}}, ("quantization_config=", "is not implemented")),
        (
            "llama3",
            {"some_new_option": 1, "another": "x"},
            ("what another='x', some_new_option=1 mean", "--ignore another some_new_option"),
        ),
        ("oracle_gpt2", {"scale_attn_by_inverse_layer_idx": True}, ("scale_attn_by_inverse_layer_idx=True",)),
        ("oracle_bert", {"is_decoder": True}, ("is_decoder=True",)),
        ("oracle_bert", {"position_embedding_type": "relative_key"}, ("position_embedding_type='relative_key'",)),
        ("albert", {"num_hidden_groups": 2}, ("num_hidden_groups=2",)),
        ("qwen2", {"layer_types": ["chunked_attention"] * 2}, ("'chunked_attention' is not one of",)),
        ("gemma3_text", {"use_bidirectional_attention": True}, ("use_bidirectional_attention=True",)),
        ("oracle_t5", {"feed_forward_proj": "gated-tanh"}, ("feed_forward_proj='gated-tanh'",)),
        ("phi", {"qk_layernorm": True}, ("qk_layernorm=True",)),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 2}}, ("'longrope'", "default, linear")),
        ("phi3", {"rope_scaling": {"type": "yarn", "long_factor": [1.0] * 2}}, ("its key 'long_factor'",)),
        ("smollm3", {"no_rope_layers": [1]}, ("no_rope_layers=[1]", "there are 3 layers")),
        ("starcoder2", {"norm_type": "rms_norm"}, ("norm_type='rms_norm'",)),
        ("gpt_bigcode", {"scale_attn_weights": False}, ("scale_attn_weights=False",)),
        ("gemma3", {"text_config": None}, ("no 'text_config'",)),
        ("gemma3", {"quantization_config": {"bits": 4}}, ("quantization_config=",)),
        ("bart", {"num_hidden_layers": 9}, ("num_hidden_layers=9 and encoder_layers=2 are two names",)),
        ("opt", {"word_embed_proj_dim": 16}, ("word_embed_proj_dim=16 is not implemented",)),
        ("gpt_neo", {"attention_types": [[["global", "strided"], 1], [["local"], 1]]}, ("attention_types=", "global")),
        ("gpt_neo", {"attention_types": [[["global"], 2]]}, ("for each of num_layers=3",)),
        ("bert", {"type_vocab_size": 0}, ("type_vocab_size=0",)),
        (
            "llama3",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
            ("partial_rotary_factor=0.5",),
        ),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(name, values, said, tmp_path):
    folder = shutil.copytree(hf.FOLDERS[name], tmp_path / "model")
    edit(folder, **values)
    message = refusal(folder)
    assert all(part in message for part in said) and "config.json" in message


def test_folders_without_a_readable_config_are_refused(folder):
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusal(folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert "is not JSON" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


@pytest.mark.parametrize("value", [[], [None], {}, "a", 1.5, float("nan"), 2**31, 10**400, -1])
def test_values_of_impossible_types_and_sizes_are_refused_with_the_file(value, folder):
    before = (folder / "config.json").read_text()
    for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"):
        edit(folder, **{key: value})
        assert "config.json" in refusal(folder), key
        (folder / "config.json").write_text(before)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"positions": "alibi"}, "model.positions='alibi'"),
        ({"attention_softcap": 3.0}, "model.attention_softcap=3.0"),
        ({"windows": (3, 5)}, "model.windows=(3, 5)"),
        ({"sublayer_scale": 0.5, "windows": (3,)}, "model.sublayer_scale=0.5"),
    ],
)
def test_export_refuses_what_no_family_can_express(fields, said, tmp_path):
    model = hf.loaded("llama3")
    config = dataclasses.replace(model.config, **fields)
    with pytest.raises(ValueError, match="no family that lmjax knows can hold this model: .*") as caught:
        save_pretrained(tmp_path / "out", config, model.params)
    assert said in str(caught.value) and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="the family 'gpt2' cannot hold this model"):
        save_pretrained(tmp_path / "out", model.config, model.params, family_name="gpt2")
    with pytest.raises(ValueError, match="family 'gpt5' is none .* llama, mistral"):
        save_pretrained(tmp_path / "out", model.config, model.params, family_name="gpt5")


def test_no_family_is_written_that_transformers_refuses_for_its_heads():
    config = dataclasses.replace(hf.loaded("llama3").config, width=56, num_heads=6, num_kv_heads=2, head_width=16)
    for scaling in (config.rope_scaling, RopeScaling()):
        config = dataclasses.replace(config, rope_scaling=scaling)
        family, values = their_config(config, list(FAMILIES.values()), ids={})
        assert family.name == "mistral" and (values["hidden_size"], values["head_dim"]) == (56, 16)
    with pytest.raises(ValueError, match="'llama' cannot .*transformers refuses a llama of width 56 with 6 heads"):
        their_config(config, [FAMILIES["llama"]], ids={})


def test_only_the_text_of_a_model_of_text_and_images_is_read(tmp_path):
    folder = shutil.copytree(hf.FOLDERS["gemma3"], tmp_path / "model")
    model = load_pretrained(folder)
    assert len(model.left_out) == 34 and all("language_model" not in name for name in model.left_out)
    assert model.family.name == "gemma3_text" and model.hf_config["eos_token_id"] == 2
    # What the whole says of ends of text goes before, and both ways to name the parts are in use.
    edit(folder, eos_token_id=[2, 3])

    def rename(tensors):
        for name in [name for name in tensors if name.startswith("language_model.model.")]:
            tensors[name.replace("language_model.model.", "model.language_model.")] = tensors.pop(name)

    edit_tensors(folder, rename)
    again = load_pretrained(folder)
    assert again.hf_config["eos_token_id"] == [2, 3]
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, again.params))
    edit_tensors(folder, lambda tensors: tensors.update({"audio_tower.weight": np.zeros(2, np.float32)}))
    assert "audio_tower.weight" in refusal(folder)


def test_ntk_scaling_is_written_as_the_base_it_amounts_to(tmp_path):
    model = hf.loaded("llama3")
    scaling = RopeScaling(kind="ntk", factor=4.0)
    config = dataclasses.replace(model.config, rope_scaling=scaling, rope_theta=10_000.0)
    save_pretrained(tmp_path, config, model.params)
    found = load_pretrained(tmp_path).config
    assert found.rope_scaling.kind == "none" and found.rope_theta == pytest.approx(10_000 * 4 ** (8 / 6))


def test_windows_are_written_as_their_shortest_pattern():
    assert shortest_pattern([4, None, 4, None, 4]) == (4, None)
    assert shortest_pattern([None, None, 4]) == (None, None, 4)
    assert shortest_pattern([4]) == (4,)


def test_both_spellings_of_rotary_positions_are_read(folder):
    modern = load_pretrained(folder).config
    parameters = json.loads((folder / "config.json").read_text())["rope_parameters"]
    theta = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    edit(folder, rope_parameters=..., rope_theta=theta, rope_scaling={"type": kind, **parameters})
    assert load_pretrained(folder).config == modern and modern.rope_scaling.kind == "llama3"
    edit(folder, rope_scaling={"type": "yarn", "factor": 4.0})
    assert load_pretrained(folder).config.rope_scaling.original_length == 48
    edit(folder, rope_scaling=None)
    assert load_pretrained(folder).config.rope_scaling == RopeScaling()


LINEAR = {"type": "linear", "factor": 2.0}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("qwen2", {"layer_types": ..., "rope_parameters": ..., "rope_theta": 10_000.0, "rope_scaling": YARN}),
        ("gemma2", {"layer_types": ...}),
        (
            "gemma3_text",
            {"layer_types": ..., "sliding_window_pattern": 2, "rope_parameters": ..., "rope_theta": 5000.0,
             "rope_local_base_freq": 100.0, "rope_scaling": LINEAR},
        ),
        ("gemma", {"hidden_act": "gelu"}),
        ("olmo3", {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                   "rope_parameters": ..., "rope_theta": 500_000.0, "rope_scaling": YARN}),
        ("smollm3", {"no_rope_layers": ..., "layer_types": ...}),
        ("gpt_neox", {"rope_parameters": ..., "rotary_pct": 0.5, "rotary_emb_base": 1000}),
        (
            "modernbert",
            {"layer_types": ..., "global_attn_every_n_layers": 3, "rope_parameters": ..., "global_rope_theta": 160_000,
             "local_rope_theta": 10_000.0},
        ),
        ("qwen3_moe", {"num_local_experts": ..., "num_experts": 4}),
        ("t5_v1_0", {"scale_decoder_outputs": ..., "tie_word_embeddings": ...}),
        ("t5_v1_1", {"scale_decoder_outputs": ..., "tie_word_embeddings": False}),
    ],
)  # fmt: skip
def test_files_of_older_versions_say_the_same(name, values, tmp_path):
    folder = shutil.copytree(hf.FOLDERS[name], tmp_path / "model")
    edit(folder, **values)
    config = hf.loaded(name).config
    assert load_pretrained(folder, execution=config.execution).config == config


def test_every_family_is_named_by_its_model_type():
    assert all(family.name.startswith(family.model_type) for family in FAMILIES.values())
