"""Whatever is wrong: one clear message, the right exit code, no traceback, every checkpoint as it was."""

import contextlib
import hashlib
import json
import pathlib
import re
import resource
import shutil

import pytest

from lmjax.train.metrics import MetricWriters


@pytest.fixture(scope="module")
def run(workspace, trained) -> pathlib.Path:
    assert trained.code == 0, trained.err
    return workspace / "tiny"


def checkpoints(folder: pathlib.Path) -> dict[str, str]:
    # Orbax goes on for a moment with a save that has failed; what it leaves is cleared by the next start.
    files = [path for path in (folder / "checkpoints").glob("[0-9]/**/*") if path.is_file()]
    assert files
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def intact(run):
    return checkpoints(run)


@pytest.fixture
def tiny(lmjax, workspace, run, intact):
    """Calls a command on the recipe ``tiny.py``; its run is whole afterwards, whatever was wrong."""
    yield lambda command, *overrides, **options: lmjax(command, workspace / "tiny.py", *overrides, **options)
    assert checkpoints(run) == intact


@pytest.fixture
def copy(run, tmp_path) -> pathlib.Path:
    """A copy of the run, to damage."""
    return shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("profile"))


@pytest.fixture
def prepared(workspace, run, tmp_path) -> pathlib.Path:
    """A copy of its prepared data, to damage."""
    return shutil.copytree(workspace / "data", tmp_path / "prepared")


@contextlib.contextmanager
def no_file_above(num_bytes: int):
    """A disk on which files cannot grow, the nearest thing to a full one that needs no privilege."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(result, *words: object, code: int = 2) -> bool:
    """Whether there is one message with these words in it, and nothing that looks like a bug; else says what is."""
    assert result.code == code, (result.err, result.out)
    assert "Traceback" not in result.err + result.out and not result.err.startswith("error: unexpected")
    assert len(re.findall(r"^error: |: error: |For full helptext", result.err, re.M)) == 1, result.err
    for word in words:
        assert str(word) in result.message
    return True


# Commands, recipes and fields


def test_unknown_command(lmjax):
    assert refused(lmjax("trian"), "unknown command 'trian': did you mean `lmjax train`?")
    assert refused(lmjax("xyzzy"), "unknown command 'xyzzy'", "tokenizer", "evaluate")


def test_unknown_recipe(lmjax, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "stdlib_demo.py").touch()
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    assert refused(lmjax("train"), "name a recipe first")
    assert refused(lmjax("train", "configs/stdlib_dmeo.py"), "no recipe", "did you mean configs/stdlib_demo.py?")
    assert refused(lmjax("train", "stdlib_dmeo"), "did you mean configs/stdlib_demo.py?")
    assert refused(lmjax("train", "stdlib_demo"), "configs/stdlib_demo.py must define a function stdlib_demo()")
    assert refused(lmjax("train", "mien.py"), "did you mean mine.py?")
    assert refused(lmjax("train", "nowhere/xyz.py"), "no recipe nowhere/xyz.py: there are albert_base, ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def r():\n    return 1 / 0", "r.py, line 2: ZeroDivisionError"),
        ("def r():\n    return {}", "r() returned dict, not a RunConfig"),
        ("def r(:", "r.py: invalid syntax (r.py, line 1)"),
        ("import absent_package", "r.py, line 1: No module named 'absent_package'"),
        ("x = 1", "must define a function r()"),
        (
            "def r():\n    return RunConfig(name='r', trian=1)",
            "line 3: TypeError: RunConfig.__init__() got an unexpected",
        ),
        ("def r():\n    return RunConfig(name='r', model=3)", "r.py: model is 3: must be ModelConfig"),
        ("def r():\n    return RunConfig(name='r', train=TrainConfig(steps=9.5))", "train.steps is 9.5: must be int"),
        ("def r():\n    return RunConfig(name='r', train=TrainConfig(steps=0))", "line 3: train.steps=0: must be at"),
        (
            "class Mine(CausalLM): pass\ndef r():\n    return RunConfig(name='r', objective=Mine())",
            "objective Mine is defined in the recipe: move it to a module that can be imported",
        ),
    ],
)
def test_a_recipe_at_fault(lmjax, tmp_path, body, words):
    imports = "from lmjax.train.config import CausalLM, RunConfig, TrainConfig\n" if "RunConfig" in body else ""
    (tmp_path / "r.py").write_text(imports + body)
    assert refused(lmjax("train", tmp_path / "r.py"), words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--optimizer.learning-rat 3", "Perhaps you meant: --optimizer.learning-rate FLOAT"),
        ("--train.steps abc", "--train.steps: invalid literal for int"),
        ("--model.positions ropee", "invalid choice 'ropee' for argument '--model.positions'"),
        ("--model.num-heads 3", "model.width=16 is not divisible by model.num_heads=3: change one of them"),
        ("--train.steps 0", "train.steps=0: must be at least 1"),
        ("--train.profile 5 3", "train.profile=(5, 3)"),
        ("--train.microbatches 3", "train.batch_size=4 is not a multiple of train.microbatches=3"),
        ("--data.mixture a b --data.mixture-weights 1", "data.mixture_weights has 1 values and data.mixture 2 folders"),
        ("--tokenizer.kind bpe", "tokenizer.vocab_size=None: kind 'bpe' needs a size"),
        ("stray", "Unrecognized options: stray"),
    ],
)
def test_a_field_at_fault(tiny, override, words):
    assert refused(tiny("train", *override.split()), words)


# What does not go together


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "--mesh.fsdp 3",
            "fsdp=3 x expert=1 x tensor=1 x context=1 does not make the 4 devices there are: change mesh.data",
        ),
        ("--train.batch-size 6", "train.batch_size=6 cannot be split over 4 devices"),
        ("--mesh.tensor 4", "model.num_heads=2 cannot be split over mesh.tensor=4"),
    ],
)
def test_what_does_not_fit_the_devices_is_said_before_any_data_is_prepared(tiny, tmp_path, override, words):
    assert refused(tiny("train", "--data.prepared", tmp_path / "new", *override.split(), num_devices=4), words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "--model.positions learned --train.sequence-length 65",
            "train.sequence_length=65 is longer than the model's learned positions: set model.max_length to at",
        ),
        ("--model.vocab-size 100", "model.vocab_size=100 is smaller than the tokenizer's 262 ids"),
        ("--train.sequence-length 5000", "tokens, fewer than one row of 5001: use shorter rows"),
    ],
)
def test_what_does_not_go_together_claims_no_folder(tiny, tmp_path, override, words):
    assert refused(tiny("train", "--folder", tmp_path / "new", *override.split()), words)
    assert not (tmp_path / "new").exists()


def test_a_profile_of_steps_that_are_not_to_come(tiny, copy):
    result = tiny("train", "--folder", copy, "--train.steps", 6, "--train.profile", 3, 4)
    assert refused(result, "train.profile=(3, 4): only 2 steps are left to do: choose earlier ones")


def test_an_objective_that_needs_a_token_the_tokenizer_lacks(lmjax, workspace, tmp_path):
    result = lmjax(
        "train", workspace / "encoder.py", "--tokenizer.special-tokens", "<eos>", "--data.prepared", tmp_path / "new"
    )
    assert refused(result, "MaskedLM needs a 'mask' token", "tokenizer.special_tokens")


# Text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "the corpus is empty: all 1 files have no content"),
        ("a.jsonl", b'{"text": ""}\n', "the corpus is empty: no document has any text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', "a.jsonl, line 2: field 'text' is 3, not text"),
        ("a.jsonl", b'{"text": "x"}\n{"text" "y"}\n', "a.jsonl, line 2: not valid JSON (Expecting ':' delimiter"),
        ("a.jsonl", b'{"txt": "x"}\n', "a.jsonl, line 1: no field 'text' (it has 'txt'): set data.text_field"),
        ("a.txt.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcbH", "a.txt.gz: truncated gzip file"),
        (
            "a.txt",
            b"abc \xff",
            "a.txt: byte 0xff at offset 4 is not UTF-8: convert the file, or set data.decode_errors",
        ),
    ],
)
@pytest.mark.parametrize("command", ["prepare", "train"])
def test_text_that_cannot_be_used(tiny, tmp_path, command, name, content, words):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / name).write_bytes(content)
    overrides = (
        "--data.path", tmp_path / "text", "--data.prepared", tmp_path / "new", "--data.valid-fraction", 0,
        "--data.decode-errors", "strict", "--folder", tmp_path / "run",
    )  # fmt: skip
    assert refused(tiny(command, *overrides), words)
    assert not (tmp_path / "run").exists()


def test_text_that_is_not_there(tiny, tmp_path):
    (tmp_path / "none").mkdir()
    options = ("--data.prepared", tmp_path / "new")
    assert refused(tiny("prepare", "--data.path", tmp_path / "absent.txt", *options), "absent.txt': no file there")
    assert refused(
        tiny("prepare", "--data.path", tmp_path / "none", *options), "no file there matches data.document_glob"
    )


# Prepared data


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "train-00000.bin").write_bytes(b"ab"), "train-00000.bin: has 2 bytes and should have"),
        (lambda f: flip(f / "train-00000.bin"), "train-00000.bin: damaged (its sha256 is not the manifest's)"),
        (lambda f: flip(f / "valid-00000.bin"), "valid-00000.bin: damaged (its sha256 is not the manifest's)"),
        (lambda f: (f / "valid-00000.idx").unlink(), "valid-00000.idx: is missing: copy the file again"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: damaged (not JSON)"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "lmjax_tokenizer.json does not exist"),
        (lambda f: (f / "tokenizer" / "lmjax_tokenizer.json").write_text("{}"), "is not a tokenizer's metadata"),
    ],
)
def test_prepared_data_that_is_damaged(tiny, prepared, tmp_path, damage, words):
    damage(prepared)
    assert refused(tiny("train", "--data.prepared", prepared, "--folder", tmp_path / "new"), words)
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_that_is_not_the_one_the_shards_were_made_with(tiny, workspace, tmp_path):
    made = "holds data made with another tokenizer (bytes, 262 ids"
    other = ("--tokenizer.kind", "bpe", "--tokenizer.vocab-size", 270)
    assert tiny("tokenizer", *other, "--data.prepared", tmp_path / "bpe").code == 0
    assert refused(tiny("train", *other), made)
    assert refused(tiny("train", "--tokenizer.special-tokens", "<eos>", "<pad>"), made)
    swapped = ("<bos>", "<pad>", "<eos>", "<mask>", "<cls>", "<sep>")
    assert refused(tiny("train", "--tokenizer.special-tokens", *swapped), made)
    by_path = ("--tokenizer.kind", "None", "--tokenizer.path")
    assert refused(tiny("train", *by_path, tmp_path / "bpe" / "tokenizer"), made)
    assert refused(tiny("train", *by_path, tmp_path / "absent"), "tokenizer.path=", "there is no such file or folder")


def test_prepared_data_of_another_text_or_preparation(tiny, workspace, prepared, tmp_path):
    fraction = ("--data.valid-fraction", 0.5)
    assert refused(tiny("train", *fraction), "was prepared with data.valid_fraction=0.3, here it is 0.5")
    assert refused(tiny("prepare", *fraction), "prepared with another data.valid_fraction (0.3, now 0.5)")
    assert refused(tiny("train", "--data.path", tmp_path), "was prepared with data.path=", f"here it is '{tmp_path}'")
    text = shutil.copytree(workspace / "text", tmp_path / "text")
    options = ("--data.path", text, "--data.prepared", tmp_path / "data")
    assert tiny("prepare", *options).code == 0
    (text / "00.txt").write_text("other words")
    assert refused(tiny("prepare", *options), "prepared with another source bytes")


def test_a_folder_that_holds_something_else_is_left_alone(tiny, workspace):
    before = sorted((workspace / "text").iterdir())
    for command in ("prepare", "train", "tokenizer"):
        assert refused(tiny(command, "--data.prepared", workspace / "text"), "is not empty and holds no preparation")
    assert sorted((workspace / "text").iterdir()) == before
    assert refused(tiny("train", "--data.prepared", workspace / "tiny.py"), "a file is where a folder should be")


# Run folders


def test_a_run_folder_of_another_run(tiny):
    assert refused(tiny("train", "--model.width", 32), "holds another run: its model.width is 16, here it is 32")
    assert refused(tiny("train", "--train.seed", 1, "--train.batch-size", 8), "and 1 more fields differ")


def test_a_checkpoint_of_another_model(tiny, lmjax, copy):
    path = copy / "config.json"
    path.write_text(path.read_text().replace('"width": 16', '"width": 32'))
    before = checkpoints(copy)
    words = (
        "is of another model",
        "params.model.embedding.table_VD is float32[384, 16] there and float32[384, 32] here",
    )
    assert refused(lmjax("sample", copy), *words)
    assert refused(lmjax("evaluate", copy), *words)
    assert refused(tiny("train", "--folder", copy, "--model.width", 32, "--train.steps", 6), *words)
    assert checkpoints(copy) == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:100], "config.json is damaged ("),
        (lambda text: "[]", "config.json is []: must be an object of fields"),
        (lambda text: text.replace('"steps": 4', '"stps": 4'), "train: unknown field 'stps'"),
        (lambda text: text.replace('"steps": 4', '"steps": "many"'), "train: steps is 'many': must be int"),
        (lambda text: text.replace('"num_heads": 2', '"num_heads": 3'), "config.json: model: model.width=16 is not"),
        (lambda text: text.replace('"name": "tiny",', ""), "field 'name' is missing"),
        (lambda text: text.replace('"windows": [', '"windows": ["x",'), "model: windows is ('x', None): must be"),
        (
            lambda text: text.replace(":CausalLM", ":CausalML"),
            "causal_lm:CausalML' is not an objective: written by another version",
        ),
        (lambda text: json.dumps({"name": "x", "train": 3}), "train is 3: must be an object"),
    ],
)
def test_a_config_file_that_is_damaged(lmjax, copy, damage, words):
    path = copy / "config.json"
    path.write_text(damage(path.read_text()))
    assert refused(lmjax("sample", copy), path, words)


@pytest.mark.parametrize("command", ["sample", "evaluate", "plot"])
def test_a_folder_that_is_no_run(lmjax, workspace, tmp_path, command):
    for folder in (workspace / "text", tmp_path / "absent", workspace / "tiny.py"):
        assert refused(lmjax(command, folder), folder, "is not ", "run")


def test_a_run_without_what_is_needed(lmjax, copy):
    for command in ("sample", "evaluate"):
        assert refused(lmjax(command, copy, "--step", 3), "no checkpoint of step 3", "there are [2, 4]")
    shutil.rmtree(copy / "checkpoints")
    for command in ("sample", "evaluate"):
        assert refused(lmjax(command, copy), f"{copy} has no checkpoint yet: train it")
    shutil.rmtree(copy / "tokenizer")
    assert refused(lmjax("sample", copy), "lmjax_tokenizer.json does not exist")
    assert refused(lmjax("plot"), "name at least one run folder")


# Disks


def test_a_file_where_a_folder_should_be(tiny, copy, tmp_path):
    (tmp_path / "file").touch()
    assert refused(tiny("train", "--folder", tmp_path / "file"), tmp_path / "file", "choose another path")
    assert refused(tiny("train", "--folder", tmp_path / "file" / "run"), "a file is where a folder should be")
    (copy / "metrics.jsonl").unlink()
    (copy / "metrics.jsonl").mkdir()
    assert refused(tiny("train", "--folder", copy, "--train.steps", 6), "metrics.jsonl: Is a directory")
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").touch()
    assert refused(tiny("train", "--folder", copy), "was saved at step 4", "has no checkpoint now", code=1)
    (copy / "record.json").unlink()
    assert refused(
        tiny("train", "--folder", copy), "checkpoints cannot be written to", "choose another run folder", code=1
    )


def test_a_disk_that_is_full_when_a_checkpoint_is_written(tiny, copy, caplog):
    before = checkpoints(copy)
    with no_file_above(20_000):
        result = tiny("train", "--folder", copy, "--train.steps", 8)
    assert refused(
        result, "the checkpoint of step 6 could not be written", "checkpoints of steps [2, 4] are intact", code=1
    )
    assert "out of memory" not in result.message
    assert not [record for record in caplog.records if record.exc_info], "a library logs tracebacks"
    assert checkpoints(copy) == before
    result = tiny("train", "--folder", copy, "--train.steps", 6)
    assert result.code == 0 and "continuing after step 4 of 6" in result.out


def test_a_disk_that_is_full_when_the_run_begins_or_goes_on(tiny, copy, tmp_path):
    before = checkpoints(copy), (copy / "config.json").read_text()
    with no_file_above(1000):
        assert refused(tiny("train", "--folder", copy, "--train.steps", 8), copy, "use another folder", code=1)
        assert refused(tiny("train", "--folder", tmp_path / "new"), tmp_path / "new", "use another folder", code=1)
    assert (checkpoints(copy), (copy / "config.json").read_text()) == before
    # What the second left does not keep the same command from working.
    assert tiny("train", "--folder", tmp_path / "new", "--train.steps", 1).code == 0


def test_a_disk_that_is_full_when_data_are_prepared(tiny, tmp_path):
    options = ("--data.prepared", tmp_path / "new")
    with no_file_above(1000):
        assert refused(tiny("prepare", *options), tmp_path / "new", "use another folder", code=1)
    assert tiny("prepare", *options).code == 0


@pytest.mark.parametrize("tensorboard", [True, False])
def test_a_disk_that_fills_up_with_metrics_stops_the_run_at_once(tmp_path, tensorboard):
    """The TensorBoard library's own writer waits for ever here."""
    written = 0
    with no_file_above(30_000), pytest.raises(OSError), MetricWriters(tmp_path, tensorboard=tensorboard) as writers:
        for step in range(1000):
            writers.write(step, {"train/loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0})
            written = step
    assert 100 < written < 999


# Options of the commands on a run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--top-k", 0), "top_k=0: must be at least 1"),
        (("--top-p", 1.5), "top_p=1.5: must be above 0 and at most 1"),
        (("--temperature", -1), "temperature=-1.0: must be a number from 1e-06 to 1e+06; 0 is greedy"),
        (("--num-samples", 0), "num_samples=0: must be at least 1"),
        (("--max-new-tokens", 0), "max_new_tokens=0: must be at least 1"),
        (("--tempreture", 1), "--temperature FLOAT"),
        (("--prompt", "\udcff"), "the prompt is not UTF-8"),
    ],
)
def test_a_sampling_option_at_fault(lmjax, run, options, words):
    assert refused(lmjax("sample", run, *options), words)


def test_a_prompt_from_standard_input_that_is_not_text(lmjax, run):
    assert refused(lmjax("sample", run, "--prompt", "-", stdin=b"abc\xff"), "the prompt is not UTF-8 (at character 3)")


def test_a_masked_model_does_not_continue_text(lmjax, copy):
    path = copy / "config.json"
    content = json.loads(path.read_text())
    content["objective"] = {"type": "lmjax.objectives.masked_lm:MaskedLM"}
    path.write_text(json.dumps(content))
    assert refused(lmjax("sample", copy), "bidirectionally", "sample a causal or prefix model")


def test_evaluation_on_what_cannot_be(tiny, lmjax, run, tmp_path):
    assert refused(lmjax("evaluate", run, "--batches", -1), "batches=-1: must not be negative")
    assert refused(lmjax("evaluate", run, "--split", "test"), "invalid choice 'test'")
    assert refused(lmjax("evaluate", run, "--prepared", tmp_path / "absent"), "absent/manifest.json: not found")
    other = ("--tokenizer.special-tokens", "<eos>", "--data.prepared", tmp_path / "other")
    assert tiny("prepare", *other).code == 0
    assert refused(lmjax("evaluate", run, "--prepared", tmp_path / "other"), "shards were made with another tokenizer")


def test_pictures_and_tokenizers_that_cannot_be(lmjax, run, workspace, tmp_path):
    assert refused(lmjax("plot", run, tmp_path), f"{tmp_path} is not the folder of a run that has begun")
    assert refused(lmjax("plot", run, "--output", tmp_path / "loss.xyz"), "Format 'xyz' is not supported")
    assert refused(lmjax("tokenizer", tmp_path), "has no tokenizer: there is neither")
    assert refused(lmjax("tokenizer", run, "--seed", 1), "--seed: a tokenizer that exists has no options")
    assert refused(
        lmjax(
            "prepare",
            workspace / "tiny.py",
            "--data.prepared",
            "None",
            "--data.mixture",
            "a",
            "--data.mixture-weights",
            1,
        ),
        "data.mixture names prepared folders (a): prepare each",
    )
