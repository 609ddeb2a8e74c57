"""Every command on one tiny run, called as a user would."""

import dataclasses
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from lmjax.cli.main import COMMANDS
from lmjax.cli.progress_bar import bytes_bar
from lmjax.cli.recipe import parse_recipe
from lmjax.cli.train import _profiled
from lmjax.objectives import CausalLM
from lmjax.train.config_file import flatten, to_json
from lmjax.train.dry_run import describe_run
from lmjax.train.goodput import Goodput
from lmjax.train.metrics import read_metrics
from lmjax.train.optimizers import Lion, Muon
from lmjax.train.profile import Profiler
from lmjax.train.recipes import load_recipe

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def run(workspace, trained) -> pathlib.Path:
    assert trained.code == 0, trained.err
    return workspace / "tiny"


def test_help_names_every_command(lmjax):
    result = lmjax("--help")
    assert result.code == 0 and all(re.search(rf"^  {name} ", result.out, re.M) for name in COMMANDS)
    assert lmjax().out == result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(lmjax, name):
    result = lmjax(name, "--help")
    assert result.code == 0 and f"usage: lmjax {name}" in result.out and not result.err


def test_help_of_a_recipe_lists_every_field_with_a_line_of_help_and_its_value(lmjax, workspace):
    result = lmjax("train", workspace / "encoder.py", "--help")
    assert result.code == 0
    assert "A recipe for tests." in result.out and "--profile" in result.out and "MaskedLM" in result.out
    shown = re.sub(r"[\s│]+", " ", result.out)
    parts = [part.split(" (default: ")[0] for part in re.split(r" --(?=[a-z])", shown) if " (default: " in part]
    options = dict(part.split(" ", 1) for part in parts)
    fields = {path.replace("_", "-") for path in flatten(to_json(load_recipe(workspace / "encoder.py")))}
    # What a recipe adds, the command line only changes. Empty mappings have no field in JSON.
    added = {"objective.type", "optimizer.type", "tracker.type", "on-fault.type", "evaluations", "data.stages"}
    assert fields - added | {"data.weights", "data.max-epochs"} == options.keys()
    assert not [name for name, text in options.items() if not re.search(r" .*\w{3}.*\.$", text)]


def test_a_dry_run_prints_every_parameter_and_leaves_nothing(lmjax, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    # More devices than there are: nothing is laid out but in words.
    options = ("--folder", folder, "--mesh.fsdp", 2, "--mesh.tensor", 2, "--train.steps", 10**6)
    result = lmjax("train", workspace / "tiny.py", "--dry-run", *options)
    assert result.code == 0 and not list(tmp_path.iterdir())
    config = load_recipe(workspace / "tiny.py")
    width, hidden = config.model.width, config.model.hidden_width
    lines = {line.split()[0]: line for line in result.out.splitlines() if "." in line}
    up = next(line for name, line in lines.items() if name.endswith("feedforward.up.weight"))
    assert re.search(rf"{width} x {hidden} +embed mlp|layers embed mlp", up) and "fsdp tensor" in up
    assert f"{width // 2} x {hidden // 2}" in up and up.split()[-3:] == ["matrix", "AdamW", "0.1"]
    for name in ("final_norm", "embedding.table"):
        assert next(line for line in lines.values() if name in line).split()[-1] == "-"
    every, held = next(line.split()[1:] for line in result.out.splitlines() if line.split()[:1] == ["all"])
    every, held = int(every.replace(",", "")), int(held.replace(",", ""))
    assert every / 4 <= held < every


def test_fields_are_overridden_by_their_path(workspace, capsys):
    overrides = (
        "--optimizer.learning-rate 0.5 --model.num-layers 3 --objective.rate 0.3 --data.path elsewhere "
        "--train.profile 3 5 --model.windows 8 None --optimizer.clip-norm None --model.bias True "
        "--data.mixture --tokenizer.special-tokens <pad> <mask>"
    )
    config = parse_recipe("train", [str(workspace / "encoder.py"), *overrides.split()])
    assert (config.optimizer.learning_rate, config.model.num_layers, config.objective.rate) == (0.5, 3, 0.3)
    assert (config.data.path, config.train.profile, config.model.windows) == ("elsewhere", (3, 5), (8, None))
    assert config.optimizer.clip_norm is None and config.model.bias is True and config.data.mixture == ()
    assert config.tokenizer.special_tokens == ("<pad>", "<mask>")
    assert config.model.num_heads == 2
    changes = capsys.readouterr().out.splitlines()
    assert "objective.rate: 0.15 -> 0.3" in changes and "optimizer.clip_norm: 1.0 -> None" in changes
    assert not any(line.startswith("data.mixture") for line in changes)


def test_a_class_is_chosen_by_its_name_and_keeps_what_all_of_its_family_have(workspace, capsys):
    options = "--optimizer Lion --optimizer.beta1 0.5 --optimizer.weight-decay 0.25 --objective=CausalLM"
    config = parse_recipe("train", [str(workspace / "encoder.py"), *options.split()])
    recipe = load_recipe(workspace / "encoder.py")
    assert config.optimizer == Lion(learning_rate=recipe.optimizer.learning_rate, beta1=0.5, weight_decay=0.25)
    assert config.objective == CausalLM()
    assert "optimizer.type: lmjax.train.optimizers.adamw:AdamW -> lmjax.train.optimizers.lion:Lion" in (
        capsys.readouterr().out.splitlines()
    )
    for words, message in (
        (["--optimizer", "Lyon"], "--optimizer Lyon: there is no such class; there are .*Lion, Muon"),
        (["--objective", "Mixture"], r"objective.parts=\(\): give at least one Part"),
        (["--optimizer"], "--optimizer : there is no such class"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_recipe("train", [str(workspace / "encoder.py"), *words])


def test_a_dry_run_tells_which_rule_updates_which_parameter(workspace, capsys):
    config = dataclasses.replace(load_recipe(workspace / "tiny.py"), optimizer=Muon())
    lines = [line.split() for line in describe_run(config).splitlines()]
    rules = {line[0]: line[-3:-1] for line in lines if len(line) > 5 and "." in line[0]}
    assert rules["model.embedding.table_VD"] == ["embedding", "AdamW"]
    for name, (kind, rule) in rules.items():
        is_hidden = kind == "matrix" and (".attention." in name or ".feedforward." in name)
        assert rule == ("Muon" if is_hidden else "AdamW"), name
    assert ["matrix", "Muon"] in rules.values()


def test_train_says_what_it_trains_and_how_it_goes(run, trained):
    for line in (
        r" embedding +6,144 +54.2%",
        r" all parameters +11,344 +100%",
        r" FLOPs of a token +74,208",
        r" memory: optimizer +88.6 KiB +50.0%",
        r" memory of a device +177.3 KiB +100%",
        r"run: .*tiny, 4 steps",
        r"step 1/4 · loss \d\.\d+",
        r"step 4: valid/loss \d\.\d+, valid/perplexity .*, valid/bits_per_byte ",
        r"done: 4 steps in .*tiny",
        r"loss curve: .*loss.png",
    ):
        assert re.search(f"^{line}", trained.out, re.M), line
    assert not trained.err
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_profile_of_a_run_shorter_than_the_usual_steps_is_of_its_last_one(run, trained):
    assert f"profile of 1 steps written to {run / 'profile'}" in trained.out
    line = (
        r"profile: [\d.]+ ms a step; stalled [\d.]+%.*, compiling [\d.]+%, host overhead [\d.]+% \([\d.]+ ms a step\)"
    )
    assert re.search(line, trained.out.replace("\n", " "))
    assert list((run / "profile").rglob("*.xplane.pb"))


def test_profile_is_of_a_few_early_steps_unless_the_recipe_names_others(workspace):
    config = load_recipe(workspace / "tiny.py")

    def steps(**changes):
        return _profiled(dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))).train.profile

    assert steps(steps=1000) == (10, 15) and steps(steps=12) == (10, 12) and steps(steps=3) == (3, 3)
    assert steps(steps=1000, profile=(2, 4)) == (2, 4)


@pytest.mark.parametrize(
    ("steps", "left", "expected"), [((2, 3), 5, "-[--]--"), ((4, 9), 5, "---[--"), (None, 2, "--")]
)
def test_profiler_records_the_steps_asked_for_and_ends_with_the_run(tmp_path, monkeypatch, steps, left, expected):
    events = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda _: events.append("["))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: events.append("]"))
    goodput = Goodput(started=0.0)
    with Profiler(tmp_path, steps, steps_left=left, goodput=goodput, note=lambda _: None) as profiler:
        for _ in range(left):
            profiler.before_step(None)
            events.append("-")
            profiler.after_step(None)
        assert "".join(events) == expected
    assert events.count("]") == events.count("[")


def test_prepare_counts_and_a_second_time_does_nothing(lmjax, workspace, run):
    manifest = workspace / "data" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    result = lmjax("prepare", workspace / "tiny.py")
    assert result.code == 0 and manifest.stat().st_mtime_ns == before
    train, valid = re.findall(r"(\d+) documents, ([\d,]+) tokens, ([\d,]+) bytes, 1.00 bytes a token", result.out)
    numbers = [[int(number.replace(",", "")) for number in split] for split in (train, valid)]
    assert numbers[0][0] + numbers[1][0] == 12
    # One end-of-text token a document, one token a byte.
    assert all(tokens == text_bytes + documents for documents, tokens, text_bytes in numbers)
    assert sum(text_bytes for _, _, text_bytes in numbers) == sum(
        path.stat().st_size for path in (workspace / "text").iterdir()
    )


def test_prepare_replaces_undecodable_bytes_and_counts_them(lmjax, workspace, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "bad.txt").write_bytes(b"abc \xff\xfe def \xe2\x82 end" + b" of it" * 100)
    result = lmjax(
        "prepare", workspace / "tiny.py", "--data.path", tmp_path / "text", "--data.prepared", tmp_path / "data",
        "--data.valid-fraction", "0",
    )  # fmt: skip
    assert result.code == 0
    assert "replaced 4 bytes that are not UTF-8, in 1 of the files (4 in bad.txt)" in result.out


def test_progress_bar_is_drawn_on_a_terminal_only():
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
        with bytes_bar("preparing", console=console) as advance:
            advance(0, 1000)
            advance(500, 1000)
            advance(1000, 1000)
            drawn = console.file.getvalue()
            console.print("done")
        assert ("preparing" in drawn and "1.0/1.0 kB" in drawn) == is_terminal
        # It left nothing to the lines that follow.
        assert console.file.getvalue() == drawn + "done\n"


def test_tokenizer_shows_how_it_cuts(lmjax, workspace, run, tmp_path):
    saved = lmjax("tokenizer", run, "--text", "aé ")
    assert saved.code == 0 and "kind         bytes" in saved.out and "<eos>=258" in saved.out
    rows = [line.split(maxsplit=3) for line in saved.out.splitlines() if re.match(r" +\d", line)]
    assert [row[:3] for row in rows] == [["0", "97", "1"], ["1", "195", "1"], ["2", "169", "1"], ["3", "32", "1"]]
    assert lmjax("tokenizer", workspace / "data", "--text", "aé ").out == saved.out
    made = lmjax(
        "tokenizer", workspace / "tiny.py", "--tokenizer.kind", "bpe", "--tokenizer.vocab-size", 270,
        "--data.prepared", tmp_path / "new", "--text", "alpha",
    )  # fmt: skip
    assert made.code == 0 and "size         270" in made.out and (tmp_path / "new" / "tokenizer").is_dir()


def test_evaluate_ends_with_json_that_agrees_with_the_run(lmjax, run):
    result = lmjax("evaluate", run)
    assert result.code == 0
    numbers = json.loads(result.out.splitlines()[-1])
    last = read_metrics(run)[-1]
    assert numbers["step"] == 4
    for name in ("valid/loss", "valid/perplexity", "valid/bits_per_byte"):
        assert numbers[name] == pytest.approx(last[name], rel=1e-5)
    assert numbers["valid/perplexity"] == pytest.approx(np.exp(numbers["valid/loss"]), rel=1e-5)


def test_evaluate_says_that_the_data_changed(lmjax, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    record = json.loads((copy / "record.json").read_text())
    record["data"][0] |= {"fingerprint": "another", "tokens": record["data"][0]["tokens"] + 5}
    (copy / "record.json").write_text(json.dumps(record))
    *_, warning, numbers = lmjax("evaluate", copy, "--batches", 1).out.splitlines()
    assert f"warning: these are not the data that {copy} was trained on" in warning
    assert "training tokens then and" in warning and "validation" not in warning and json.loads(numbers)
    assert "warning" not in lmjax("evaluate", run, "--batches", 1).out


def test_evaluate_takes_another_split_step_and_folder(lmjax, run, workspace):
    on_train = json.loads(lmjax("evaluate", run, "--split", "train", "--batches", 1).out)
    earlier = json.loads(lmjax("evaluate", run, "--step", 2).out)
    elsewhere = json.loads(lmjax("evaluate", run, "--prepared", workspace / "data").out)
    newest = json.loads(lmjax("evaluate", run).out)
    names = ("loss", "perplexity", "bits_per_byte", "tokens", "bytes")
    assert on_train.keys() == {"step", *(f"train/{name}" for name in names)}
    assert earlier["step"] == 2 and earlier["valid/loss"] > newest["valid/loss"]
    assert elsewhere == newest


def test_sample_continues_a_prompt(lmjax, run):
    options = ("--max-new-tokens", 6)
    result = lmjax("sample", run, "--prompt", "alpha :smile: [bold]", *options)
    assert result.code == 0 and result.out.startswith("alpha :smile: [bold]") and not result.err
    assert result.out == lmjax("sample", run, "--prompt", "alpha :smile: [bold]", *options).out
    assert result.out != lmjax("sample", run, "--prompt", "alpha :smile: [bold]", "--seed", 1, *options).out
    assert lmjax("sample", run, "--prompt", "-", *options, stdin=b"alpha :smile: [bold]").out == result.out


def test_several_samples_from_nothing_are_numbered_and_differ(lmjax, run):
    result = lmjax("sample", run, "--prompt", "", "--num-samples", 2, "--max-new-tokens", 6, "--step", 2)
    assert result.code == 0
    first, second = result.out.removeprefix("--- 1\n").split("--- 2\n")
    assert first.strip() and second.strip() and first != second


def test_a_diffusion_model_fills_in_masks_and_what_follows(lmjax, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("profile"))
    path = copy / "config.json"
    content = json.loads(path.read_text())
    # The parameters are those of a transformer whatever trained them.
    content["objective"] = {"type": "lmjax.objectives.masked_diffusion:MaskedDiffusion"}
    path.write_text(json.dumps(content))
    options = ("--prompt", "alpha <mask><mask> beta", "--max-new-tokens", 3, "--unmask-steps", 2)
    result = lmjax("sample", copy, *options, "--order", "confidence")
    assert result.code == 0 and re.match(r"(?s)alpha .* beta.", result.out) and "<mask>" not in result.out
    assert lmjax("sample", copy, *options, "--seed", 1).out != lmjax("sample", copy, *options).out


def test_plot_draws_runs(lmjax, run, tmp_path):
    result = lmjax("plot", run, run, "--output", tmp_path / "both.png")
    assert result.code == 0 and result.out.strip() == str(tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_train_again_has_nothing_to_do(lmjax, workspace, run):
    before = read_metrics(run)
    result = lmjax("train", workspace / "tiny.py")
    assert result.code == 0 and "continuing after step 4 of 4" in result.out
    assert read_metrics(run) == before


def test_evaluate_from_another_folder(lmjax, workspace, tmp_path, monkeypatch):
    """A run's relative paths are meant from where it was started, which its own place tells."""
    shutil.copytree(workspace / "text", tmp_path / "text")
    (tmp_path / "tiny.py").write_text((workspace / "tiny.py").read_text().replace(f"{workspace}/", ""))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert lmjax("train", "tiny.py", "--data.prepared", "None", "--train.steps", 2, "--folder", "runs/x").code == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = lmjax("evaluate", tmp_path / "runs" / "x")
    assert result.code == 0 and "valid/loss" in result.out, result.err
    (tmp_path / "runs" / "x").rename(tmp_path / "moved")
    result = lmjax("evaluate", tmp_path / "moved")
    assert result.code == 2 and "--prepared" in result.err and "data.path='text': no file there" in result.err
