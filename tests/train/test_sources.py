"""A run on several sources: prepared together, validated by source, with other weights for later stages on a resume."""

import dataclasses

import pytest
from tiny_run import config, with_train

from lmjax.cli import prepare as prepare_command
from lmjax.data.config import DataConfig
from lmjax.data.mixing import Source, Stage
from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json, to_json
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.evaluations.validation import mean_of_sources
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.open_corpus import open_corpus
from lmjax.train.plan import make_plan

pytestmark = [pytest.mark.run, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three sources of text: JSON lines with a field of their own, divided text, and text a file a document."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "web.jsonl").write_text(
        "".join(f'{{"content": "a page about {n} things, and more"}}\n' for n in range(60))
    )
    (folder / "code.txt").write_text("".join(f"def f{n}(x):\n    return x * {n}\n%%\n" for n in range(40)))
    (folder / "math").mkdir()
    for n in range(20):
        (folder / "math" / f"{n}.txt").write_text(f"{n} + {n} = {2 * n}; {n} * {n} = {n * n}.\n" * 3)
    return folder


def recipe(root, **changes):
    sources = {
        "web": Source(path=str(root / "web.jsonl"), text_field="content"),
        "code": Source(path=str(root / "code.txt"), document_separator="%%\n"),
    }
    given = {"sources": sources, "weights": {"web": 3.0, "code": 1.0}, "prepared": str(root / "data"), **changes}
    base = config(root, objective_name="CausalLM", data=DataConfig(packing="segments", valid_fraction=0.2, **given))
    return with_train(base, steps=2, batch_size=4, eval_every=2, eval_batches=2, ema_decay=None)


def test_a_run_on_several_sources_goes_on_with_other_weights_and_sources(root, capsys):
    base, said = recipe(root), []
    train(base, say=said.append)
    first, last = read_metrics(base.run_folder)[0], read_metrics(base.run_folder)[-1]
    tokens = {
        name: one.manifest.total("train", "tokens")
        for name, one in open_corpus(base.data, base.tokenizer).sources.items()
    }
    # Eight rows of 33 tokens, six of them from the web.
    assert last["epochs/web"] == pytest.approx(6 / (tokens["web"] // 33)) and last["epochs/code"] == 2 / (
        tokens["code"] // 33
    )
    assert first["valid/loss"] == pytest.approx(0.75 * first["valid/web/loss"] + 0.25 * first["valid/code/loss"])
    assert any("from step 0 on: code 0.25, web 0.75" in line for line in said)

    def go_on(**changes):
        return with_train(recipe(root, **changes), steps=4)

    for weights in ({"web": 1.0, "code": 1.0}, {"web": 1.0}):
        with pytest.raises(ValueError, match="first 2 steps have read their rows, or .* with these"):
            train(go_on(weights=weights))
    with pytest.raises(ValueError, match="with these weights: from"):
        train(go_on(stages=(Stage(first_step=1, weights={"web": 1.0}),)))
    later = go_on(
        sources={**base.data.sources, "math": Source(path=str(root / "math"))},
        stages=(Stage(first_step=2, weights={"math": 1.0, "code": 1.0}),),
        weights={"web": 6.0, "code": 2.0},
    )
    train(later, say=said.append)
    last = read_metrics(base.run_folder)[-1]
    assert last["epochs/web"] == pytest.approx(6 / (tokens["web"] // 33)) and last["epochs/code"] == 6 / (
        tokens["code"] // 33
    )
    assert last["epochs/math"] > 0 and "valid/math/loss" in last
    # A command that opens the finished run reads its configuration back.
    assert from_json(RunConfig, to_json(later)) == later
    capsys.readouterr()


def test_sources_are_prepared_together_with_one_tokenizer(root, tmp_path, monkeypatch, capsys):
    base = recipe(root, prepared=str(tmp_path / "data"))
    monkeypatch.setattr(prepare_command, "parse_recipe", lambda *_, **__: base)
    prepare_command.run(["recipe"])
    printed = capsys.readouterr().out
    assert "code: " in printed and "web: " in printed and printed.count("  train: ") == 2
    corpus = open_corpus(base.data, base.tokenizer)
    assert {one.manifest.tokenizer_fingerprint for one in corpus.each()} == {corpus.tokenizer.fingerprint}
    assert corpus.total("train", "documents") == sum(one.manifest.total("train", "documents") for one in corpus.each())
    # The text may be gone once it is prepared, and a source may be one that is prepared elsewhere.
    elsewhere = DataConfig(
        sources={
            "a": Source(prepared=str(tmp_path / "data" / "web")),
            "b": Source(prepared=str(tmp_path / "data" / "code")),
        },
        packing="segments",
    )
    assert open_corpus(elsewhere, base.tokenizer).weights[0][1].keys() == {"a", "b"}
    missing = dataclasses.replace(
        elsewhere, sources={**elsewhere.sources, "c": Source(prepared=str(tmp_path / "none"))}
    )
    with pytest.raises(ValueError, match=r"data.sources: c: .*none holds no prepared data"):
        open_corpus(missing, base.tokenizer)
    with pytest.raises(ValueError, match="holds a single prepared source"):
        open_corpus(dataclasses.replace(base.data, prepared=str(tmp_path / "data" / "web")), base.tokenizer)


def test_a_source_that_would_be_read_too_often_is_refused_beforehand(root):
    base = with_train(recipe(root, prepared=str(root / "limited"), max_epochs={"code": 0.5}), steps=200)
    with pytest.raises(ValueError, match=r"data.max_epochs: code=0.5: .* in 200 steps, and 0.5 times by step \d+"):
        make_plan(base)
    make_plan(recipe(root, prepared=str(root / "limited"), max_epochs={"code": 0.5}))
    assert not base.run_folder.with_name("other").exists()


def test_the_mean_over_sources_weighs_losses_and_multiplies_perplexities():
    readings = {
        "a": Reading(numbers={"loss": 1.0, "perplexity": 4.0}, counts={"tokens": 5}),
        "b": Reading(
            numbers={"loss": 3.0, "perplexity": 9.0, "bits_per_byte": 2.0}, counts={"tokens": 1}, notes=("x",)
        ),
    }
    mean = mean_of_sources(readings, {"a": 0.5, "b": 0.5})
    assert mean.numbers["loss"] == 2.0 and mean.numbers["perplexity"] == 6.0 and "bits_per_byte" not in mean.numbers
    assert mean.numbers["b/bits_per_byte"] == 2.0 and mean.counts == {"tokens": 6} and mean.notes == ("x",)
