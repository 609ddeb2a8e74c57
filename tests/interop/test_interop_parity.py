"""Against transformers itself (`make test-parity`): its models read here, ours read there, on new random weights."""

import dataclasses
import importlib.util
import json
import pathlib

import hf
import jax
import numpy as np
import pytest

from lmjax.interop import load_pretrained, save_pretrained
from lmjax.interop.pretrained import module_of
from lmjax.interop.tokenizer_export import save_tokenizer_files
from lmjax.tokenizers import TokenizerConfig, build_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

_spec = importlib.util.spec_from_file_location("make", hf.GOLDEN / "make.py")
assert _spec is not None and _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def their_answers(folder: pathlib.Path, architecture: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What transformers says with the weights of a folder."""
    kind = getattr(transformers, architecture)
    model, loading = kind.from_pretrained(folder, output_loading_info=True)
    # Weights that are missing would be drawn at random without an error.
    assert not any(loading.get(name) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    return make.answers(model.eval().float(), inputs)


@pytest.mark.parametrize("name", make.CASES)
def test_we_read_what_they_write_and_they_read_what_we_write(name, tmp_path):
    reference = make.build(name, seed=1).float()
    inputs = make.inputs(name, seed=1)
    theirs = make.answers(reference, inputs)
    reference.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    model = load_pretrained(tmp_path / "theirs", remat="none", attention="xla")
    ours = hf.answers(model, inputs)
    difference = hf.largest_difference(model, inputs, ours, theirs)
    assert difference < 1e-4
    ids = {role: model.hf_config.get(f"{role}_token_id") for role in ("bos", "eos", "pad")}
    save_pretrained(tmp_path / "ours", model.config, model.params, ids=ids, family_name=model.family.name)
    again = their_answers(tmp_path / "ours", model.family.architecture(model.config), inputs)
    exported = hf.divergence(model, inputs, again, theirs)
    assert exported < 1e-8 and hf.divergence(model, inputs, ours, again) < 1e-8
    print(f"{name:24}{model.family.name:24}{difference:.1e}  {exported:.1e}")


@pytest.mark.parametrize("name", [name for name in make.CASES if name in hf.FOLDERS])
def test_models_born_here_are_theirs_too(name, tmp_path):
    """Initial weights of ours, stacked, written under whatever family the export finds."""
    known = hf.loaded(name)
    config = dataclasses.replace(known.config, scan_layers=True)
    spec = module_of(config, known.family)
    params = jax.tree.map(np.asarray, jax.jit(spec.init, compiler_options=hf.QUICK)(jax.random.key(0)))
    family = save_pretrained(tmp_path, config, params, ids={"pad": 0, "bos": 1, "eos": 2})
    inputs = make.inputs(name, seed=2)
    theirs = their_answers(tmp_path, family.architecture(config), inputs)
    model = dataclasses.replace(known, config=config, params=params)
    assert hf.divergence(model, inputs, hf.answers(model, inputs), theirs) < 1e-8


def test_the_auto_classes_find_model_and_tokenizer(tmp_path):
    model = hf.loaded("oracle_llama")
    save_pretrained(tmp_path, model.config, model.params, ids={"bos": 1})
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tmp_path)).__name__ == "LlamaForCausalLM"
    assert transformers.AutoConfig.from_pretrained(tmp_path).bos_token_id == 1


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_their_tokenizer_gives_our_ids(kind, tmp_path):
    texts = ["the cat sat on the mat, naïvely.\n", "  two  spaces\tand 123 😀", "def f(x):\n    return x ** 2"] * 40
    size = None if kind == "bytes" else 296
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), lambda: iter(texts))
    save_tokenizer_files(tmp_path, tokenizer, max_length=512)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.mask_token_id == tokenizer.vocabulary.mask_id and theirs.eos_token_id == tokenizer.vocabulary.eos_id
    for text in texts[:3]:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text).tolist()
        assert theirs.decode(tokenizer.encode(text).tolist()) == text


def test_references_are_what_the_script_makes(tmp_path):
    for name in ("mistral", "electra_generator"):
        reference = make.build(name)
        said = make.answers(reference, make.inputs(name))
        np.testing.assert_allclose(said["logits"], hf.expected(name)[1]["logits"], atol=1e-5)
        reference.bfloat16().save_pretrained(tmp_path / name)
        config = [json.loads((place / "config.json").read_text()) for place in (tmp_path / name, hf.FOLDERS[name])]
        assert config[0] == config[1]
