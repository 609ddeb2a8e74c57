"""The result of a curation does not depend on how the work is divided, and nothing is lost when it is killed."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("rensa")

from planted import make
from test_curation import contents, curation

from lmjax.curate import Curation, ExactDuplicates, NearDuplicates, Normalize, PlugIn, RawText, curate

RULES = (Normalize(), ExactDuplicates(simplified=True), NearDuplicates())
"""Rules without spaCy, which takes seconds to load."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    make(folder, clean=60, each=20)
    return folder


@pytest.fixture(scope="module")
def alone(raw):
    """The folder of a curation by one process."""
    curate(curation(raw, "alone", rules=RULES, unit_bytes=8_000), num_workers=1)
    return contents(str(raw / "alone"))


def test_two_that_curate_one_folder_divide_the_work(raw, alone, monkeypatch):
    from lmjax.curate import unit

    config = curation(raw, "shared", rules=RULES, unit_bytes=8_000)
    done: dict[int, list[int]] = {}
    at_the_start = threading.Barrier(2)
    whole = unit.CurateUnits.__call__

    def noted(self, number, item, advance):
        done.setdefault(threading.get_ident(), []).append(number)
        if len(done[threading.get_ident()]) == 1:
            at_the_start.wait(timeout=20)  # both are at work now
        whole(self, number, item, advance)

    monkeypatch.setattr(unit.CurateUnits, "__call__", noted)
    threads = [threading.Thread(target=curate, args=(config,), kwargs={"num_workers": 1}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(str(raw / "shared")) == alone
    assert len(done) == 2 and sum(map(len, done.values())) == 3 * (len([n for n in alone if n.endswith(".zst")]))


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
import pathlib
from lmjax.curate import unit, curate
from test_curate_work import RULES, curation
numbers = []
whole = unit.CurateUnits.__call__
def dies(self, number, item, advance):
    numbers.append(number)
    if len(numbers) == {units}:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, number, item, advance)
unit.CurateUnits.__call__ = dies
curate(curation(pathlib.Path({folder!r}), "killed", rules=RULES, unit_bytes=8_000), num_workers=1)
"""


@pytest.mark.processes
def test_killed_in_each_stage_and_resumed_gives_the_same_bytes(raw, alone):
    tests = pathlib.Path(__file__).parent
    folder = raw / "killed"
    for units in (3, 7):
        script = KILLED.format(tests=str(tests), root=str(tests.parents[1]), folder=str(raw), units=units)
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not (folder / "report.json").exists() and (folder / "plan.json").exists()
    entries = {path: path.stat().st_mtime_ns for path in folder.glob("work/*/*.json")}
    assert len(entries) == 8
    curate(curation(raw, "killed", rules=RULES, unit_bytes=8_000), num_workers=1)
    assert contents(str(folder)) == alone


@pytest.mark.long
@pytest.mark.processes
def test_all_rules_on_two_workers_give_the_same_bytes(tmp_path):
    pytest.importorskip("spacy")
    make(tmp_path, clean=12, each=4)
    for workers in (1, 2):
        curate(curation(tmp_path, str(workers), unit_bytes=4_000), num_workers=workers)
    assert contents(str(tmp_path / "1")) == contents(str(tmp_path / "2"))


def test_a_source_that_comes_first_keeps_its_copies(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "The same words."}\n{"text": "Others."}\n')
    (tmp_path / "b.txt").write_text("the SAME   words\n%%\nMore.")
    for order in (("a", "b"), ("b", "a")):
        raw = {
            "a": RawText(path=str(tmp_path / "a.jsonl")),
            "b": RawText(path=str(tmp_path / "b.txt"), document_separator="%%"),
        }
        config = Curation(
            sources={name: raw[name] for name in order},
            folder=str(tmp_path / "-".join(order)),
            rules=(ExactDuplicates(simplified=True),),
        )
        report = curate(config, num_workers=1)
        assert {name: count.documents for name, count in report.ledger.kept.items()} == {order[0]: 2, order[1]: 1}


def test_other_rules_while_others_work_are_refused(raw, monkeypatch):
    from lmjax.curate import unit

    config = curation(raw, "busy", rules=RULES[:1], unit_bytes=8_000)
    refused = []
    whole = unit.CurateUnits.__call__

    def intrudes(self, number, item, advance):
        if not refused:
            refused.append(True)

            def other():
                with pytest.raises(ValueError, match="is being curated by other processes, .* with other rules"):
                    curate(curation(raw, "busy", rules=RULES[:2], unit_bytes=8_000), num_workers=1)
                refused.append(True)

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        whole(self, number, item, advance)

    monkeypatch.setattr(unit.CurateUnits, "__call__", intrudes)
    curate(config, num_workers=1)
    assert refused == [True, True]


def test_a_folder_of_something_else_is_refused(tmp_path, raw):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no curation"):
        curate(curation(raw, str(tmp_path), rules=RULES), num_workers=1)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_other_text_begins_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "One."}\n')
    config = Curation(
        sources={"a": RawText(path=str(path))},
        folder=str(tmp_path / "out"),
        rules=(PlugIn(function=f"{tmp_path}/no.py:f"),),
    )
    (tmp_path / "no.py").write_text("def f(text, document):\n    raise KeyError('mine')\n")
    with pytest.raises(
        Exception, match=r"rule 1 \(f\) has failed on document 'a.jsonl#0' of source 'a': KeyError: 'mine'"
    ):
        curate(config, num_workers=1)
    path.write_text('{"text": "Another one."}\n{"text": ""}\n')
    changed = Curation(sources=config.sources, folder=config.folder)
    report = curate(changed, num_workers=1)
    assert report.ledger.kept["a"].documents == 1 and report.total(-1).dropped.documents == 1
    with pytest.raises(ValueError, match="holds a curation from other text"):
        path.write_text('{"text": "A third."}\n')
        curate(changed, num_workers=1)


@pytest.mark.long
@pytest.mark.processes
def test_a_dask_cluster_gives_the_same_bytes(raw, alone, monkeypatch):
    distributed = pytest.importorskip("distributed")
    root = pathlib.Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        config = curation(raw, "cluster", rules=RULES, unit_bytes=8_000)
        curate(config, engine=cluster.scheduler_address)
    assert contents(str(raw / "cluster")) == alone


def test_damaged_and_bad_input_is_named(tmp_path):
    make(tmp_path, clean=6, each=2)
    path = tmp_path / "a-web.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a-web.jsonl.zst: (truncated|damaged) zstandard file.*: fetch it again"):
        curate(curation(tmp_path, "out", rules=RULES), num_workers=1)
    (tmp_path / "c.jsonl").write_text('{"text": "One."}\n{"text": 3}\n{"text": "Two."}\n')
    raw = {"c": RawText(path=str(tmp_path / "c.jsonl"))}
    with pytest.raises(ValueError, match=r"c.jsonl, line 2: field 'text' is 3, not text"):
        curate(Curation(sources=raw, folder=str(tmp_path / "c")), num_workers=1)
    report = curate(Curation(sources=raw, folder=str(tmp_path / "d"), bad_records="skip"), num_workers=1)
    assert report.ledger.kept["c"].documents == 2
    assert len(report.notes) == 1 and "c: left out 1 records that cannot be read" in report.notes[0]
    assert report.notes[0] in (tmp_path / "d" / "report.txt").read_text()
