"""`lmjax scaling`: the law that run folders were made by is found, and what cannot be compared is refused."""

import dataclasses
import json

import pytest
import tiny
from tiny_run import config, with_train

from lmjax.analysis.scaling_runs import num_parameters, scaling_points
from lmjax.cli.scaling import run
from lmjax.curves.scaling import ScalingLaw
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.train.config_file import write_config

LAW = ScalingLaw(offset=1.5, parameter_scale=40.0, token_scale=60.0, parameter_exponent=0.4, token_exponent=0.35)


def make_run(folder, *, layers, steps, halved_at=None, kind="bytes"):
    """A run folder without checkpoints, whose validation follows the law."""
    folder.mkdir()
    base = with_train(config(folder, objective_name="CausalLM"), steps=steps)
    tokenizer = build_tokenizer(
        TokenizerConfig(kind=kind, vocab_size=None if kind == "bytes" else 264), lambda: iter(["ab cd"] * 9)
    )
    tokenizer.save(folder / "tokenizer")
    base = dataclasses.replace(base, model=dataclasses.replace(tiny.MODEL, num_layers=layers))
    write_config(base, folder / "config.json")
    sizes = [[0, 8]] + ([] if halved_at is None else [[halved_at, 4]])
    rows = 8 * steps if halved_at is None else 8 * halved_at + 4 * (steps - halved_at)
    loss = float(LAW(num_parameters(base), 32 * rows))
    (folder / "record.json").write_text(json.dumps({"data": [], "batch_sizes": sizes, "last_saved": steps}))
    lines = [{"step": 0, "valid/loss": 9.0}, {"step": steps, "valid/loss": loss, "valid/bits_per_byte": loss / 2}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("sizes")
    found = [
        make_run(place / f"{layers}_{steps}", layers=layers, steps=steps)
        for layers in (1, 4, 16)
        for steps in (100, 800, 6400)
    ]
    return [*found, make_run(place / "halved", layers=4, steps=800, halved_at=400)]


def test_the_law_is_found_and_budgets_are_split_by_it(folders, capsys):
    run([*map(str, folders), "--json", "--flops", "1e12"])
    said = json.loads(capsys.readouterr().out)
    assert said["runs"][-1]["tokens"] == 32 * (8 * 400 + 4 * 400)
    law = said["law"]
    assert law["parameter_exponent"]["value"] == pytest.approx(0.4, rel=0.05)
    assert law["token_exponent"]["value"] == pytest.approx(0.35, rel=0.05)
    (best,) = said["best"]
    parameters, tokens = LAW.best_split(1e12)
    assert (best["parameters"], best["tokens"]) == (
        pytest.approx(parameters, rel=0.2),
        pytest.approx(tokens, rel=0.2),
    )
    run([*map(str, folders)])
    said = capsys.readouterr().out
    assert "alpha" in said and "no isoFLOP fit: " in said and said.count("law ") >= len(folders)


def test_tables_need_not_count(folders):
    with_tables, without = (scaling_points(folders[:1], by="loss", embeddings=count)[0] for count in (True, False))
    assert with_tables.parameters - without.parameters == 64 * 16


def test_what_cannot_be_fitted_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="at least 6 runs"):
        run([*map(str, folders[:3])])
    other = make_run(tmp_path / "other", layers=1, steps=100, kind="bpe")
    with pytest.raises(ValueError, match="other has another tokenizer than .*--by bits_per_byte"):
        run([*map(str, folders), str(other)])
    with pytest.raises(ValueError, match="not the folder of a run"):
        run([*map(str, folders), str(tmp_path)])
    with pytest.raises(ValueError, match="--flops -1.0: must be above 0"):
        run([*map(str, folders), "--flops", "-1"])
    (folders[0] / "metrics.jsonl").write_text('{"step": 1, "train/loss": 3.0}\n')
    with pytest.raises(ValueError, match="has no valid/loss"):
        run([*map(str, folders)])
