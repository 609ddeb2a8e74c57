"""The report of a curation, for people: what each rule dropped, with examples, as text and as an HTML page."""

import dataclasses
import html
from collections.abc import Iterable, Sequence
from typing import Any

from lmjax.curate.ledger import Account, Count, Ledger
from lmjax.curate.unit import EMPTY

Row = Sequence[str]
Table = tuple[Row, Sequence[Row]]
"""The head of a table, and its rows."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
body { color: #222; background: #fff }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .2rem .8rem; text-align: right }
th { border-bottom: 1px solid #999; font-weight: 600 }
td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #8881 }
blockquote { border-left: 3px solid #999; margin: .4rem 0 .8rem; padding: 0 .8rem; white-space: pre-wrap }
blockquote { overflow-wrap: anywhere; font: 13px/1.4 ui-monospace, monospace }
details { margin: .3rem 0 }
.bar { display: inline-block; height: .7em; background: #c44; min-width: 1px }
small { color: #777 }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd } }
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a curation did.

    Attributes:
      rules: the names of the rules, by number.
      ledger: the accounts of the rules.
      clusters: for each rule that compares documents, the number of clusters by their number of documents.
      notes: remarks of the readers, such as records that were left out.
      plan: the settings, the state of the raw text and the versions of libraries.
    """

    rules: tuple[str, ...]
    ledger: Ledger
    clusters: dict[int, dict[int, int]]
    notes: tuple[str, ...]
    plan: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Report":
        """The inverse of :meth:`to_json`."""
        clusters = {
            int(rule): {int(size): number for size, number in sizes.items()}
            for rule, sizes in content["clusters"].items()
        }
        return cls(
            rules=tuple(content["rules"]),
            ledger=Ledger.from_json(content["ledger"]),
            clusters=clusters,
            notes=tuple(content["notes"]),
            plan=content["plan"],
        )

    def total(self, rule: int) -> Account:
        """Returns the account of a rule with all sources together."""
        total = Account()
        for account in self.ledger.accounts.get(rule, {}).values():
            for name in ("seen", "dropped", "changed"):
                count: Count = getattr(account, name)
                getattr(total, name).add(count.bytes, count.documents)
        return total

    @property
    def numbers(self) -> list[int]:
        """The numbers of the rules in their order; the check for text comes first if it dropped anything."""
        first = [EMPTY] if self.total(EMPTY).dropped.documents else []
        return [*first, *range(len(self.rules))]

    def title(self, rule: int) -> str:
        """Returns what a rule is called in tables."""
        return "0 (text)" if rule == EMPTY else f"{rule + 1} {self.rules[rule]}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def source_table(report: Report) -> Table:
    """Returns the head and the rows of the table of sources, before and after."""
    head = ("source", "documents", "after", "kept", "bytes", "after", "kept", "bytes a document", "after")
    ledger = report.ledger
    names = sorted(ledger.raw)
    counts = [(name, ledger.raw[name], ledger.kept.get(name, Count())) for name in names]
    if len(names) > 1:
        sums = [Count(), Count()]
        for _, *pair in counts:
            for total, one in zip(sums, pair, strict=True):
                total.add(one.bytes, one.documents)
        counts.append(("all", sums[0], sums[1]))
    rows = []
    for name, raw, kept in counts:
        row = [name]
        for before, after in ((raw.documents, kept.documents), (raw.bytes, kept.bytes)):
            row += [f"{before:,}", f"{after:,}", _share(after, before)]
        row += [f"{count.bytes // max(count.documents, 1):,}" for count in (raw, kept)]
        rows.append(row)
    return head, rows


def rule_table(report: Report) -> Table:
    """Returns the head and the rows of the table of rules, in all sources together."""
    head = ("rule", "documents", "dropped", "share", "bytes dropped", "changed", "bytes removed")
    rows = []
    for number in report.numbers:
        account = report.total(number)
        rows.append((
            report.title(number), f"{account.seen.documents:,}", f"{account.dropped.documents:,}",
            _share(account.dropped.documents, account.seen.documents), f"{account.dropped.bytes:,}",
            f"{account.changed.documents:,}", f"{account.changed.bytes:,}",
        ))  # fmt: skip
    return head, rows


def by_source_table(report: Report) -> Table:
    """Returns the head and the rows of the table of documents dropped by each rule from each source."""
    names = sorted(report.ledger.raw)
    rows = []
    for number in report.numbers:
        accounts = report.ledger.accounts.get(number, {})
        own = [accounts.get(name, Account()) for name in names]
        cells = (f"{one.dropped.documents:,} ({_share(one.dropped.documents, one.seen.documents)})" for one in own)
        rows.append((report.title(number), *cells))
    return ("rule", *names), rows


def cluster_table(sizes: dict[int, int]) -> Table:
    """Returns the head and the rows of a table of clusters, whose sizes are put together by powers of two."""
    grouped: dict[tuple[int, int], int] = {}
    for size, number in sorted(sizes.items()):
        low = size if size < 4 else 1 << (size.bit_length() - 1)
        bounds = (low, low if size < 4 else 2 * low - 1)
        grouped[bounds] = grouped.get(bounds, 0) + number
    rows = [(str(low) if low == high else f"{low} to {high}", f"{number:,}") for (low, high), number in grouped.items()]
    return ("documents of a cluster", "clusters"), rows


def _reasons(report: Report, rule: int) -> list[tuple[str, int]]:
    return sorted(report.ledger.reasons.get(rule, {}).items(), key=lambda item: (-item[1], item[0]))


def as_text(report: Report) -> str:
    """Returns the report as text."""
    parts = ["Sources\n" + _aligned(*source_table(report)), "Rules, in their order\n" + _aligned(*rule_table(report))]
    if len(report.ledger.raw) > 1:
        parts.append("Documents dropped, by source\n" + _aligned(*by_source_table(report)))
    for number, sizes in sorted(report.clusters.items()):
        if sizes:
            parts.append(f"Clusters of {report.title(number)}\n" + _aligned(*cluster_table(sizes)))
    for number in report.numbers:
        for reason, count in _reasons(report, number):
            shown = report.ledger.examples.get(number, {}).get(reason, [])
            texts = [f"  {one.id}: {' '.join(one.text.split())[:160]}" for one in shown]
            parts.append("\n".join([f"{report.title(number)}: {reason} ({count:,})", *texts]))
    if report.notes:
        parts.append("Notes\n" + "\n".join(f"  {note}" for note in report.notes))
    return "\n\n".join(parts) + "\n"


def _aligned(head: Row, rows: Iterable[Row]) -> str:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return "\n".join(
        "  "
        + "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    )


def as_html(report: Report) -> str:
    """Returns the report as one page that asks for nothing from a network."""
    parts = ["<h1>Curation</h1>", "<h2>Sources</h2>", _table(*source_table(report))]
    head, rows = rule_table(report)
    bars = []
    for number, row in zip(report.numbers, rows, strict=True):
        account = report.total(number)
        width = 100 * account.dropped.documents / max(account.seen.documents, 1)
        bars.append((*row, f'<span class="bar" style="width:{width:.1f}px"></span>' if width else ""))
    parts += ["<h2>Rules, in their order</h2>", _table((*head, ""), bars, raw_last=True)]
    if len(report.ledger.raw) > 1:
        parts += ["<h2>Documents dropped, by source</h2>", _table(*by_source_table(report))]
    for number, sizes in sorted(report.clusters.items()):
        if sizes:
            parts += [f"<h2>Clusters of {html.escape(report.title(number))}</h2>", _table(*cluster_table(sizes))]
    parts.append("<h2>What was dropped, with examples</h2>")
    for number in report.numbers:
        for reason, count in _reasons(report, number):
            shown = report.ledger.examples.get(number, {}).get(reason, [])
            quotes = "".join(
                f"<small>{html.escape(one.id)}</small><blockquote>{html.escape(one.text)}</blockquote>" for one in shown
            )
            title = html.escape(f"{report.title(number)}: {reason}")
            parts.append(f"<details><summary>{title} <small>({count:,})</small></summary>{quotes}</details>")
    if report.notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in report.notes) + "</ul>")
    made = ", ".join(f"{name} {version}" for name, version in report.plan["libraries"].items())
    parts.append(f"<p><small>{html.escape(made)}</small></p>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Curation</title><style>{_STYLE}</style>'
        f"</head><body>\n{body}\n</body></html>\n"
    )


def _table(head: Row, rows: Iterable[Row], *, raw_last: bool = False) -> str:
    lines = ["<table>", "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = [cell if raw_last and place == len(row) - 1 else html.escape(cell) for place, cell in enumerate(row)]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
