"""Without the packages of the extra, a curation says which one it needs, before it does anything."""

import sys

import pytest

from lmjax.cli.main import _run
from lmjax.curate import Curation, GopherQuality, NearDuplicates, RawText, curate
from lmjax.curate.ledger import Ledger
from lmjax.curate.report import Report, as_html, as_text


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for module in ("datatrove", "datatrove.data"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "a.txt").write_text("text")
    config = Curation(
        sources={"a": RawText(path=str(tmp_path / "a.txt"))},
        folder=str(tmp_path / "out"),
        rules=(GopherQuality(), NearDuplicates()),
    )
    with pytest.raises(ValueError, match=r"curation needs datatrove: pip install 'lmjax\[curate\]'"):
        curate(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["curate"], "name a recipe first"),
        (["curate", "no_such.py"], "no recipe no_such.py"),
        (["curate", "clean.py", "--workers", "0"], "--workers 0: must be a number of at least 1"),
        (["curate", "clean.py", "--engine"], "--engine: give a value"),
        (["prepare", "clean.py", "--engine", "tcp://x:1", "--workers=2"], "has workers of its own"),
        (["curate", "clean.py"], r"clean\(\) returned int, not a Curation"),
    ],
)
def test_the_command_refuses(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMJAX_CACHE", "0")
    (tmp_path / "clean.py").write_text("def clean():\n    return 3\n")
    with pytest.raises(ValueError, match=message):
        _run(words)


def test_ledgers_add_up_in_any_order_and_reports_show_them():
    parts = []
    for number, (reason, text) in enumerate([("short", "a <b>"), ("short", "c"), (None, "d"), ("long", "e" * 900)]):
        part = Ledger(1)
        part.raw.setdefault("web", part.account(0, "web").seen.__class__()).add(len(text))
        part.judged(0, "web", id=f"<{number}>", before=text, after=text.upper(), reason=reason)
        parts.append(part)
    sums = []
    for order in (parts, parts[::-1]):
        total = Ledger(1)
        for part in order:
            total.add(part)
        total.reasons = {rule: dict(sorted(reasons.items())) for rule, reasons in total.reasons.items()}
        sums.append(total)
    assert sums[0] == sums[1]
    account = sums[0].account(0, "web")
    assert (account.seen.documents, account.dropped.documents, account.changed.documents) == (4, 3, 1)
    assert account.seen.bytes == 5 + 1 + 1 + 900 and account.dropped.bytes == 906
    assert {reason: len(shown) for reason, shown in sums[0].examples[0].items()} == {"short": 1, "long": 1}
    report = Report(
        rules=("Mine",), ledger=sums[0], clusters={0: {2: 3, 5: 1, 7: 1}}, notes=("n <1>",), plan={"libraries": {}}
    )
    text, page = as_text(report), as_html(report)
    assert "4 to 7" in text and "1 Mine: short (2)" in text and "75.0%" in text
    assert "<b>" not in page and "n &lt;1&gt;" in page
