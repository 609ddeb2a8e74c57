"""The report: one file that asks for nothing, in which what comes from files is text and no markup."""

import html.parser
import json
import math

import numpy as np
import pytest

from lmjax.analysis.report.page import render, write_report
from lmjax.analysis.report.thinning import thinned
from lmjax.analysis.run_files import find_runs, read_run
from lmjax.parallel.folder_lock import folder_lock
from lmjax.train.samples_file import Written, append_samples

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'\"\u2028\x1b[31m"


def make_run(folder, *, steps=400, spike=None, total=400, saved=400, name="demo", torn=True, learning_rate=1e-3):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        loss = (2 + 5 * step**-0.4) * math.exp(0.02 * rng.normal()) * (3 if step == spike else 1)
        line = {"step": step, "train/loss": loss, "learning_rate": 1e-3, "grad_norm": 0.5, "tokens_per_second": 5e4}
        if step % 50 == 0:
            line |= {"valid/loss": 2.1 + 5 * step**-0.4, "valid/bits_per_byte": 1.25, "code/accuracy": step / 1000}
        lines.append(json.dumps(line))
    lines[10] = '{"step": 11, "train/loss": NaN}'
    lines[20] = "[" * 5000
    text = "\n".join(lines) + ('\n{"step": 401, "train/lo' if torn else "\n")
    (folder / "metrics.jsonl").write_text(text)
    config = {
        "name": name,
        "objective": {"type": "lmjax.objectives.causal_lm:CausalLM"},
        "model": {"width": 64, "note": EVIL},
        "train": {"steps": total},
        "optimizer": {"learning_rate": learning_rate},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "record.json").write_text(json.dumps({"data": [], "batch_sizes": [[0, 8]], "last_saved": saved}))
    return folder


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text by the tag around it."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def data(self):
        index = [tag for tag, _ in self.tags].index("script")
        assert self.tags[index][1]["id"] == "data"
        return json.loads(next(text for tag, text in self.texts if tag == "script"))


def test_the_page_names_loss_best_step_and_spike(tmp_path):
    run = make_run(tmp_path / "run", spike=300)
    output = write_report([run], tmp_path / "pages" / "report.html")
    text = output.read_text()
    page = Page(text)
    said = " ".join(piece for tag, piece in page.texts if tag not in ("script", "style"))
    assert "A spike at step 300" in said and "best validation loss" in said and "at step 400" in said
    assert "valid/bits_per_byte" in said and "code/accuracy" in said and "loss at 10 times the steps" in said
    loss, *others = page.data()["charts"]
    assert {mark["text"] for mark in loss["marks"]} == {"spike 7.66 at 300", "best 2.555 at step 400"}
    assert [chart["title"] for chart in others] == [
        "learning rate", "gradient norm", "throughput", "valid/bits_per_byte", "code/accuracy",
    ]  # fmt: skip
    raw = next(curve for curve in loss["curves"] if curve["kind"] == "raw")
    assert raw["y"][10] is None and len(raw["x"]) == 399  # line 21 is damaged, the last is torn


def test_faults_and_goodput_are_shown(tmp_path):
    run = make_run(tmp_path / "run", torn=False)
    rows = {"first_token": 0, "end_token": 1600, "rows": [800, 900], "step": 101, "reason": "loss is <NaN>"}
    record = json.loads((run / "record.json").read_text()) | {"passed_over": [rows]}
    (run / "record.json").write_text(json.dumps(record))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 401, "goodput": 0.875, "skipped_updates": 3}\n')
    said = render([run])
    assert "Step 101 was faulty (loss is &lt;NaN&gt;): rows 800 to 899 were passed over." in said
    assert "<b>87.5%</b>" in said and "<span>skipped updates</span><b>3</b>" in said
    assert ">87.5%<" in render([run, make_run(tmp_path / "other")])


def test_texts_are_shown_by_prompt_and_most_are_folded_away(tmp_path):
    run = make_run(tmp_path / "run")
    assert "Texts over time" not in render([run])
    for step in range(0, 400, 20):
        append_samples(
            run, step, "texts", [Written(prompt="def ", text=f"<b>{step}</b>"), Written(prompt="", text="z")]
        )
    said = render([run])
    assert said.count("after “def ”") == 1 and said.count("from the beginning") == 1
    assert said.count("&lt;b&gt;0&lt;/b&gt;") == 2 and said.count("&lt;b&gt;20&lt;/b&gt;") == 1
    assert said.count("all 20 texts") == 2 and "<b>0</b>" not in said
    assert said.count('<table class="texts">') == 4


def test_the_page_asks_for_nothing_and_runs_nothing_of_the_files(tmp_path):
    runs = [make_run(tmp_path / "<b>one&amp;", name=EVIL), make_run(tmp_path / "two", learning_rate=3e-3)]
    text = render(runs)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2 and "img" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")}, (tag, attributes)
        assert "src" not in attributes and attributes.get("href", "data:,") == "data:,"
    assert "default-src 'none'" in text and "http:" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "\x1b" not in text and "optimizer.learning_rate" in text and "0.003" in text
    assert page.data()["runs"] == ["<b>one&amp;", "two"]


def test_runs_without_losses_or_settings_still_have_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "train/loss": null}\n{"step": 2, "other": 1}\n')
    assert "No config.json could be read" in render([tmp_path / "run"])
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"\xff\n")
    assert "there is no loss" in render([tmp_path / "run"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is not the folder of a run that has begun"):
        render([tmp_path / "empty"])
    with pytest.raises(ValueError, match="is a folder: name another file"):
        write_report([tmp_path / "run"], tmp_path)


def test_thinning_keeps_peaks_and_gaps():
    values = np.sin(np.arange(100_000) / 500)
    values[12_345], values[50_000] = 9.0, np.nan
    steps, kept = thinned(np.arange(100_000.0), values, most=1000)
    assert len(kept) < 1200 and kept[steps == 12_345] == 9 and np.isnan(kept[steps == 50_000])
    assert steps[0] == 0 and steps[-1] == 99_999 and (np.diff(steps) > 0).all()


def test_states(tmp_path):
    expected = {
        "finished": make_run(tmp_path / "a" / "finished"),
        "stopped": make_run(tmp_path / "a" / "stopped", steps=300, total=900, saved=300, torn=False),
        "failed": make_run(tmp_path / "a" / "failed", steps=300, total=900, saved=200),
        "running": make_run(tmp_path / "a" / "b" / "running", steps=300, total=900, saved=300),
    }
    (tmp_path / "a" / "damaged").mkdir()
    (tmp_path / "a" / "damaged" / "config.json").write_text("{")
    (tmp_path / "a" / "damaged" / "metrics.jsonl").write_text("")
    (tmp_path / "a" / "other").mkdir()
    (tmp_path / "a" / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    with folder_lock(expected["running"], "is being trained"):
        states = {run.folder: run.state for run in find_runs(tmp_path)}
    assert states == {folder: state for state, folder in expected.items()} | {tmp_path / "a" / "damaged": "failed"}
    assert read_run(expected["running"]).state == "stopped"


def test_a_huge_file_is_read_from_its_end(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / "metrics.jsonl"
    lines = "".join(f'{{"step": {step}, "train/loss": 2.0, "pad": {"1" * 80}}}\n' for step in range(401, 40_401))
    path.write_text(path.read_text()[:-30] + "\n" + lines)
    files = read_run(run)
    assert len(files.last_lines) < 20_000 and files.last_step == 40_400 and files.last("train/loss") == 2.0
