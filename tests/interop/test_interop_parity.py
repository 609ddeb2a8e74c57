"""Against transformers itself (`make test-parity`): its models read here, ours read there, on new random weights."""

import dataclasses
import importlib
import importlib.util
import inspect
import json
import pathlib
import re

import hf
import jax
import numpy as np
import published
import pytest

from lmjax.interop import FAMILIES, load_pretrained, save_pretrained
from lmjax.interop.mxfp4 import dequantise
from lmjax.interop.pretrained import module_of, read_config
from lmjax.interop.published import keep_published, read_published
from lmjax.interop.rope_config import TURN_PART
from lmjax.interop.tokenizer_export import Marks, save_tokenizer_files
from lmjax.interop.tokenizer_files import load_tokenizer_files
from lmjax.models.execution import ExecutionConfig
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.tokenizers.declared import ROLES

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
    assert not loading.get("missing_keys") and not loading.get("mismatched_keys"), loading
    # AutoModel reads the pooler, and a model with nothing but a masked head leaves it.
    assert all(".pooler." in name for name in loading.get("unexpected_keys", ())), loading
    return make.answers(model.eval().float(), inputs)


@pytest.mark.parametrize("name", make.CASES)
def test_we_read_what_they_write_and_they_read_what_we_write(name, tmp_path):
    reference = make.build(name, seed=1).float()
    inputs = make.inputs(name, seed=1)
    theirs = make.answers(reference, inputs)
    reference.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    model = load_pretrained(tmp_path / "theirs", execution=ExecutionConfig(remat="none", attention="xla"))
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
    config = dataclasses.replace(known.config, execution=ExecutionConfig(scan_layers=True))
    spec = module_of(config, known.family)
    params = jax.tree.map(np.asarray, jax.jit(spec.init, compiler_options=hf.QUICK)(jax.random.key(0)))
    family = save_pretrained(tmp_path, config, params, ids={"pad": 0, "bos": 1, "eos": 2})
    inputs = make.inputs(name, seed=2)
    theirs = their_answers(tmp_path, family.architecture(config), inputs)
    model = dataclasses.replace(known, config=config, params=params, new=())
    assert hf.divergence(model, inputs, hf.answers(model, inputs), theirs) < 1e-8


def test_mxfp4_weights_are_what_they_make_of_them():
    """Random bytes, and scales that stay finite."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, 8, 4, 16)).astype(np.uint8)
    scales = rng.integers(0, 252, (3, 8, 4)).astype(np.uint8)
    theirs = convert_moe_packed_tensors(torch.as_tensor(blocks), torch.as_tensor(scales), dtype=torch.float32)
    np.testing.assert_array_equal(dequantise(blocks, scales).swapaxes(1, 2), theirs.numpy())


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


@pytest.mark.parametrize("kind", published.KINDS)
def test_their_tokenizer_does_on_an_export_what_it_did(kind, tmp_path):
    folder = published.publish(tmp_path / "theirs", kind)
    config = json.loads((folder / "config.json").read_text())
    keep_published(folder, tmp_path / "kept", config, tokenizer=True)
    tokenizer = load_tokenizer_files(folder, config)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))
    found = read_published(tmp_path / "kept", tokenizer)
    save_tokenizer_files(tmp_path / "ours", tokenizer, max_length=64, published=found, model_type=config["model_type"])
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(place) for place in (folder, tmp_path / "ours"))
    assert type(ours) is type(theirs) and len(ours) == len(theirs) and ours.chat_template == theirs.chat_template
    assert ours.special_tokens_map == theirs.special_tokens_map
    for text in ("the cat sat", "a mat", "<s>a man</s><|im_start|>at<extra_id_1>", "", " the  hat"):
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours(text, "the mat").input_ids == theirs(text, "the mat").input_ids
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids)
    for name in (*theirs.all_special_tokens, "<extra_id_0>", "<extra_id_2>"):
        assert ours.convert_tokens_to_ids(name) == theirs.convert_tokens_to_ids(name)
    if theirs.chat_template:
        chat = [{"role": "user", "content": "the cat"}]
        assert ours.apply_chat_template(chat, tokenize=False) == "<s>the cat</s>"


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram"])
@pytest.mark.parametrize("model_type", ["llama", "bert", "t5"])
def test_their_tokenizer_puts_our_marks_around_texts(kind, model_type, tmp_path):
    texts = ["the cat sat on the mat, naïvely.\n", "  two  spaces\tand 123 😀", "def f(x):\n    return x ** 2"] * 40
    size = None if kind == "bytes" else 299
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size, num_sentinels=3), lambda: iter(texts))
    known = tokenizer.vocabulary
    marks = {
        "llama": Marks(before=known.bos_id),
        "bert": Marks(before=known.cls_id, after=known.sep_id),
        "t5": Marks(after=known.eos_id),
    }[model_type]
    save_tokenizer_files(tmp_path, tokenizer, max_length=512, marks=marks)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    first, last = ([] if mark is None else [mark] for mark in (marks.before, marks.after))
    assert theirs("the cat").input_ids == [*first, *tokenizer.encode("the cat").tolist(), *last]
    assert theirs.decode(theirs("the cat").input_ids, skip_special_tokens=True) == "the cat"
    for role in ROLES:
        assert getattr(theirs, f"{role}_token_id") == getattr(known, f"{role}_id")
    assert theirs.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(3)]) == list(known.sentinel_ids)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.form == "decoder"])
def test_an_export_can_be_loaded_whatever_the_width_of_heads(name, tmp_path):
    reference = next(folder for folder in hf.FOLDERS if hf.loaded(folder).family.name == name)
    known = hf.loaded(reference).config
    if known.latent.rank or "attention" not in known.mixers:
        pytest.skip("its heads have no width of the usual kind")
    config = dataclasses.replace(known, width=36, num_heads=8, num_kv_heads=2, head_width=8)
    shapes = module_of(config, FAMILIES[name]).shapes
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), shapes)
    try:
        family = save_pretrained(tmp_path, config, params, family_name=name)
    except ValueError as error:
        assert f"the family {name!r} cannot hold this model" in str(error)
        return
    inputs = make.inputs(reference)
    assert np.isfinite(their_answers(tmp_path, family.architecture(config), inputs)["logits"]).all()


@pytest.mark.parametrize("name", sorted({family.model_type for family in FAMILIES.values()}))
def test_keys_that_their_code_reads_are_asked_for(name):
    """A file of defaults is read, and no key of it that their model reads is passed over as one it does not read."""
    family = next(family for family in FAMILIES.values() if family.model_type == name)
    values = json.loads(transformers.CONFIG_MAPPING[name]().to_json_string(use_diff=False))
    passed = read_config(family, values, ())[0].passed
    module = name.removesuffix("_text").replace("-", "_")
    source = inspect.getsource(importlib.import_module(f"transformers.models.{module}.modeling_{module}"))
    read = {*re.findall(r"config\.(\w+)", source), *re.findall(r'getattr\(\w*\.?config, "(\w+)"', source)}
    assert ("partial_rotary_factor" in source) == (name in TURN_PART)
    # These are about other heads, the precision and order of sums, and initial values.
    indifferent = {"classifier_pooling", "deterministic_flash_attn", "reorder_and_upcast_attn", "sinusoidal_pos_embds"}
    assert not {key for key in passed.not_read.keys() & read if not key.startswith("summary_")} - indifferent


def test_references_are_what_the_script_makes(tmp_path):
    for name in ("mistral", "electra_generator"):
        reference = make.build(name)
        said = make.answers(reference, make.inputs(name))
        np.testing.assert_allclose(said["logits"], hf.expected(name)[1]["logits"], atol=1e-5)
        reference.bfloat16().save_pretrained(tmp_path / name)
        config = [json.loads((place / "config.json").read_text()) for place in (tmp_path / name, hf.FOLDERS[name])]
        # Files say which version wrote them.
        for values in config:
            del values["transformers_version"]
        assert config[0] == config[1]
