"""`lmjax import` and `lmjax export` as a user calls them: a folder becomes a run, and the run the folder again."""

import contextlib
import io
import json
import pathlib
import shutil
import sys
from unittest import mock

import hf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file
from tokenizers import models, pre_tokenizers

from lmjax.cli.main import main
from lmjax.data.config import DataConfig
from lmjax.interop import load_pretrained
from lmjax.models.parameters import ModuleSpec
from lmjax.objectives import CausalLM, Contrastive, Denoising, MaskedLM, ReplacedToken, SpanCorruption
from lmjax.parallel.mesh import MeshConfig
from lmjax.runs import open as open_run
from lmjax.runs.hf_import import NOTE
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of ``lmjax ARGUMENTS``, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["lmjax", *map(str, arguments)]),
        mock.patch.object(sys, "unraisablehook", sys.unraisablehook),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exit_,
    ):
        main()
    return exit_.value.code, out.getvalue(), err.getvalue()


def with_tokenizer(name: str, folder: pathlib.Path, *, num_sentinels: int = 0) -> pathlib.Path:
    """A copy of a reference folder with a tokenizer of single characters."""
    shutil.copytree(hf.FOLDERS[name], folder)
    names = [*SPECIAL, *(f"<extra_id_{index}>" for index in range(num_sentinels))]
    characters = "abcdefghijklmnopqrstuvwxyz ."
    library = tokenizers.Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate([*names, *characters])}, unk_token="<unk>")
    )
    library.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    library.add_special_tokens(names)
    (folder / "tokenizer.json").write_text(library.to_str())
    return folder


def those_of(names, params):
    """What of a tree of parameters has a name in another one."""
    return {name: those_of(names[name], params[name]) for name in names} if isinstance(names, dict) else params


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("mistral", CausalLM),
        ("bert", MaskedLM),
        ("t5_v1_1", SpanCorruption),
        ("bart", Denoising),
        ("electra_discriminator", ReplacedToken),
    ],
)
def test_a_folder_becomes_a_run_and_the_run_that_folder(name, objective, tmp_path, monkeypatch):
    # Random numbers for a generator would take longest of all to compile.
    monkeypatch.setattr(ModuleSpec, "init", lambda spec, key: jax.tree.map(lambda s: jnp.zeros(s.shape), spec.shapes))
    folder = with_tokenizer(name, tmp_path / "theirs", num_sentinels=3)
    settings = {"eos_token_id": [2, 3], "temperature": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    code, out, err = command("import", folder, tmp_path / "run")
    assert code == 0, err
    assert "--train.init-from" in out and ("generator" in out) == (objective is ReplacedToken)
    opened = open_run(tmp_path / "run")
    assert type(opened.config.objective) is objective and opened.step == 0
    assert opened.tokenizer.vocabulary.mask_id == 4 and len(opened.tokenizer.vocabulary.sentinel_ids) == 3
    assert opened.config.data.add_eos and not opened.config.data.add_bos
    original = load_pretrained(folder)
    assert opened.config.model == original.config
    imported = opened.params if "extras" in original.params else opened.params["model"]
    jax.tree.map(np.testing.assert_array_equal, those_of(original.params, imported), original.params)
    code, out, err = command("export", tmp_path / "run", tmp_path / "again", "--family", original.family.name)
    assert code == 0 and original.family.architecture(original.config) in out, err
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "again"))
    skipped = {"model.embed_positions"}
    assert before.keys() - skipped == after.keys()
    again = load_pretrained(tmp_path / "again")
    assert again.config == original.config
    generates = original.family.form in ("decoder", "encoder_decoder")
    path = tmp_path / "again" / "generation_config.json"
    assert path.exists() == generates and (not generates or json.loads(path.read_text()) == settings)
    jax.tree.map(np.testing.assert_array_equal, again.params, original.params)
    assert (tmp_path / "again" / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()


def test_a_folder_is_opened_as_the_run_it_would_become(tmp_path):
    folder = with_tokenizer("mistral", tmp_path / "theirs")
    opened = open_run(folder)
    assert opened.imported and opened.step == 0 and not (tmp_path / "run").exists()
    code, _, err = command("import", folder, tmp_path / "run")
    assert code == 0, err
    run = open_run(tmp_path / "run")
    assert opened.config.model == run.config.model and opened.tokenizer.fingerprint == run.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, opened.params, run.params)
    texts = ["some words.", "more"]
    for ours, theirs in zip(opened.score(texts), run.score(texts), strict=True):
        np.testing.assert_array_equal(ours.log_probabilities, theirs.log_probabilities)
    assert np.isfinite(opened.score(texts)[0].loss)
    with pytest.raises(ValueError, match="step=3: .* is a Hugging Face folder"):
        open_run(folder, step=3)


def test_an_encoder_without_a_head_gets_a_new_one_and_contrastive_training_begins_with_it(tmp_path, monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    folder = with_tokenizer("bert_base_model", tmp_path / "theirs")
    code, out, err = command("import", folder, tmp_path / "run")
    assert code == 0, err
    new = ["head_bias_V", "head_dense", "head_norm"]
    assert f"new, for the folder does not hold them: {', '.join(new)}" in out
    assert json.loads((tmp_path / "run" / NOTE).read_text())["new_parameters"] == new
    opened = open_run(tmp_path / "run")
    original = load_pretrained(folder)
    assert type(opened.config.objective) is MaskedLM and [*original.new] == new
    assert opened.params["model"].keys() == {*original.params, *new} and opened.params["model"]["pooler"]
    assert np.asarray(opened.params["model"]["head_dense"]["weight"]).std() == pytest.approx(0.02, rel=0.1)

    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(f"the {animal} and {n} more are here." for animal in ("cat", "hen") for n in "abcdef"))
    config = RunConfig(
        name="pairs",
        folder=str(tmp_path / "pairs"),
        objective=Contrastive(max_documents=1),
        model=opened.config.model,
        tokenizer=TokenizerConfig(path=str(tmp_path / "run" / "tokenizer")),
        data=DataConfig(path=str(path), valid_fraction=0.0, prepared=str(tmp_path / "data"), document_separator="\n\n"),
        train=TrainConfig(steps=1, batch_size=2, sequence_length=16, log_every=1, tensorboard=False,
                          init_from=str(tmp_path / "run")),
        mesh=MeshConfig(data=1),
    )  # fmt: skip
    train(config)
    (line,) = [line for line in read_metrics(tmp_path / "pairs") if "train/loss" in line]
    assert np.isfinite(line["train/loss"]) and line["train/loss"] > 0
    trained = open_run(tmp_path / "pairs").params["model"]
    moved = np.abs(trained["embedding"]["table_VD"] - original.params["embedding"]["table_VD"]).max()
    # One step of the optimizer away from what the folder holds.
    assert 0 < moved < 0.01


def test_keys_are_ignored_by_name_and_written_down(tmp_path):
    folder = with_tokenizer("llama3", tmp_path / "theirs")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"twist": 3, "turn": "x", "sliding_window": 9}))
    code, _, err = command("import", folder, tmp_path / "run")
    assert code == 2 and "turn='x', twist=3" in err and "--ignore turn twist" in err
    code, _, err = command("import", folder, tmp_path / "run", "--ignore", "twist")
    assert code == 2 and "twist" not in err and not (tmp_path / "run").exists()
    code, out, err = command("import", folder, tmp_path / "run", "--ignore", "turn", "twist")
    assert code == 0, err
    assert 'ignored, as asked: turn="x", twist=3' in out and "sliding_window=9" in out
    note = json.loads((tmp_path / "run" / NOTE).read_text())
    assert note["ignored"] == {"turn": "x", "twist": 3} and note["model_type"] == "llama"
    assert note["not_read"] == {"pretraining_tp": 1, "sliding_window": 9}


def test_tokens_without_an_embedding_are_left_out(tmp_path):
    folder = with_tokenizer("llama3", tmp_path / "theirs")
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    vocabulary = definition["model"]["vocab"]
    vocabulary |= {f"filler{i}": i for i in range(len(vocabulary), 61)}
    soft = {"id": 61, "content": "<image_soft_token>", "special": True, "normalized": False, "single_word": False,
            "lstrip": False, "rstrip": False}  # fmt: skip
    definition["added_tokens"].append(soft)
    path.write_text(json.dumps(definition))
    code, out, err = command("import", folder, tmp_path / "run")
    assert code == 0, err
    assert "no rows for them: <image_soft_token>" in out
    vocabulary = open_run(tmp_path / "run").tokenizer.vocabulary
    assert vocabulary.size == 61 and vocabulary.eos_id == 2 and vocabulary.mask_id == 4
    # An ordinary token beyond the table is another tokenizer's.
    definition["model"]["vocab"]["more"] = 62
    path.write_text(json.dumps(definition))
    code, _, err = command("import", folder, tmp_path / "other")
    assert code == 2 and "the tokenizer has 63 ids and the model's table 61 rows" in err


def test_export_halves_the_precision_on_demand(tmp_path):
    folder = with_tokenizer("llama3", tmp_path / "theirs")
    assert command("import", folder, tmp_path / "run")[0] == 0
    assert command("export", tmp_path / "run", tmp_path / "half", "--dtype", "bfloat16")[0] == 0
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and config["max_position_embeddings"] == 48
    assert {str(array.dtype) for array in load_file(tmp_path / "half" / "model.safetensors").values()} == {"bfloat16"}
    assert json.loads((tmp_path / "half" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_what_stands_in_the_way_is_named(tmp_path):
    folder = with_tokenizer("llama3", tmp_path / "theirs")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    code, _, err = command("import", folder, tmp_path / "run")
    assert code == 2 and "has no tokenizer" in err and not (tmp_path / "run").exists()
    assert command("import", folder, tmp_path / "run", "--tokenizer", tmp_path / "tokenizer.json")[0] == 0
    code, _, err = command("import", folder, tmp_path / "run")
    assert code == 2 and "is not empty" in err
    code, _, err = command("export", tmp_path / "run", folder)
    assert code == 2 and "is not empty" in err
    code, _, err = command("export", tmp_path / "run", tmp_path / "out", "--family", "bert")
    assert code == 2 and "the family 'bert' cannot hold this model" in err
    large = tmp_path / "large.json"
    large.write_text(tokenizers.Tokenizer(models.WordLevel({str(i): i for i in range(70)}, unk_token="0")).to_str())
    code, _, err = command("import", folder, tmp_path / "other", "--tokenizer", large)
    assert code == 2 and "the tokenizer has 70 ids and the model's table 61 rows" in err
    code, _, err = command("import", with_tokenizer("oracle_t5", tmp_path / "t5"), tmp_path / "other")
    assert code == 2 and "sentinel" in err and not (tmp_path / "other").exists()
