"""A planted corpus goes through all rules: what each finds, and that the division of the work changes nothing."""

import dataclasses
import json
import pathlib
import re

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("rensa")
pytest.importorskip("spacy")

import zstandard
from planted import make

from lmjax.curate import (
    C4Quality,
    Curation,
    Decontaminate,
    ExactDuplicates,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    Language,
    NearDuplicates,
    Normalize,
    Pages,
    PersonalData,
    RawText,
    curate,
)
from lmjax.curate.ledger import Ledger
from lmjax.curate.report import as_text

pytestmark = pytest.mark.long


def curation(folder: pathlib.Path, out: str, **changes) -> Curation:
    fields = {"id_field": "id", "url_field": "url", "kept_fields": ("views",)}
    default = {
        "sources": {
            "web": RawText(path=str(folder / "a-web.jsonl.zst"), **fields),
            "forum": RawText(path=str(folder / "b-forum.jsonl"), **fields),
        },
        "folder": str(folder / out),
        "unit_bytes": 40_000,
        "rules": (
            Normalize(form="NFKC"),
            Pages(domains=str(folder / "domains.txt")),
            Language(function=f"{folder / 'mine.py'}:language"),
            GopherQuality(),
            GopherRepetition(),
            ExactDuplicates(),
            ExactDuplicates(simplified=True),
            C4Quality(),
            FineWebQuality(),
            Decontaminate(path=str(folder / "questions.jsonl"), text_field="question"),
            NearDuplicates(),
            PersonalData(),
        ),
    }
    return Curation(**{**default, **changes})


def kept(folder: str) -> dict[str, dict]:
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*.jsonl.zst")):
        for line in zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().splitlines():
            record = json.loads(line)
            found[record["id"]] = record
    return found


def contents(folder: str) -> dict[str, bytes]:
    root = pathlib.Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    labels = make(folder)
    config = curation(folder, "one", examples=1000)
    return folder, labels, config, curate(config, num_workers=1)


EXPECTED = {
    1: {"blocked"},
    2: {"german"},
    3: {"boilerplate", "gibberish", "short"},
    4: {"repeated"},
    5: {"exact"},
    6: {"simplified"},
    9: {"evaluation"},
    10: {"near"},
}
"""The labels that each rule is there for; documents that an earlier rule has dropped do not count."""


def test_recall_and_precision_of_each_rule(planted):
    _, labels, config, report = planted
    dropped = {
        rule: [example.id for examples in shown.values() for example in examples]
        for rule, shown in report.ledger.examples.items()
    }
    gone: set[str] = set()
    print()
    for rule, wanted in EXPECTED.items():
        gone |= {id for earlier, ids in dropped.items() if earlier < rule for id in ids}
        own = dropped.get(rule, [])
        there = [id for id, label in labels.items() if label in wanted and id not in gone]
        right = [id for id in own if labels[id] in wanted]
        recall, precision = len(right) / max(len(there), 1), len(right) / max(len(own), 1)
        what = "/".join(sorted(wanted))
        print(f"{config.rules[rule].name:<20} {what:<22} recall {recall:.2f} precision {precision:.2f}")
        assert recall >= 0.95 and precision >= 0.95, (rule, own)
    left = kept(config.folder)
    assert [labels[id] for id in left].count("clean") == list(labels.values()).count("clean")
    assert set(left) == {id for id, label in labels.items() if label == "clean"}


def test_the_report_adds_up(planted):
    folder, labels, config, report = planted
    raw, left = report.ledger.raw, report.ledger.kept
    assert sum(count.documents for count in raw.values()) == len(labels)
    dropped = sum(report.total(rule).dropped.documents for rule in report.numbers)
    assert sum(count.documents for count in left.values()) == len(labels) - dropped
    for before, after in zip(report.numbers, report.numbers[1:], strict=False):
        seen, gone = report.total(before).seen.documents, report.total(before).dropped.documents
        assert report.total(after).seen.documents == seen - gone
    assert report.clusters[5] == {2: 12} and report.clusters[10] == {2: 12}
    text = (folder / "one" / "report.txt").read_text()
    page = (folder / "one" / "report.html").read_text()
    for words in (
        "forum",
        "web",
        "all",
        "8 C4Quality",
        "13 words of an evaluation text",
        "documents of a cluster",
        "blocked-",
    ):
        assert words in text and words in page
    assert not re.search(r"(src|href)=", page) and text == as_text(report)
    assert Ledger.from_json(json.loads(json.dumps(dataclasses.asdict(report.ledger)))) == report.ledger
    # The result keeps the fields that were asked for.
    record = kept(config.folder)["clean-7"]
    assert record["views"] == 7 and record["url"] == "https://example.org/page/7" and "source" not in record


def test_it_is_done_once(planted):
    _, _, config, report = planted
    before = {path: path.stat().st_mtime_ns for path in pathlib.Path(config.folder).rglob("*")}
    assert curate(config) == report
    assert before == {path: path.stat().st_mtime_ns for path in pathlib.Path(config.folder).rglob("*")}
    assert not any(path.name in ("work", "plan.json") for path in before)
    with pytest.raises(ValueError, match="holds a curation with other rules: choose another folder"):
        curate(dataclasses.replace(config, rules=config.rules[:2]))
