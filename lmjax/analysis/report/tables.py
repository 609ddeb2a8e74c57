"""The tables of a report as HTML. Everything that comes from a file is escaped here."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lmjax.analysis.plots import column, printable
from lmjax.analysis.report.charts import Shown, evaluated_numbers
from lmjax.curves.power_law import Estimate
from lmjax.train.progress import short_number
from lmjax.train.samples_file import Sample

_LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "bits_per_character")
_HIGHER_IS_BETTER = ("accuracy", "recall", "mrr", "bleu", "rouge")


def text(value: object) -> str:
    """Returns a value as escaped text; control characters are shown as boxes."""
    return html.escape(printable(str(value), kept="\n\t"), quote=True)


def number(value: float | None) -> str:
    """Returns a number with four digits, or a dash."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.0f}" if abs(value) >= 1e5 or (value == int(value) and abs(value) >= 1000) else f"{value:.4g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", style: str = "numbers") -> str:
    """Returns a table of cells that are HTML; the first cell of a row is its heading.

    Args:
      head: the heading of each column.
      rows: the cells.
      caption: what stands above the table.
      style: its class in ``page.css``: ``"numbers"``, or ``"texts"``, which are read from the left.
    """
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
        for first, *others in rows
    )
    title = f"<caption>{caption}</caption>" if caption else ""
    parts = f"{title}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="{style}">{parts}</table></div>'


def tiles(run: Shown) -> str:
    """Returns the most important numbers of a run."""
    files, findings = run.files, run.findings
    total = "" if files.total_steps is None else f" of {files.total_steps:,}"
    facts = [("state", text(files.state), f"step {files.last_step:,}{total}")]
    if findings.level is not None:
        facts.append(("training loss", number(findings.level), "at the end"))
    if findings.best is not None:
        split = "validation" if findings.best.split == "valid" else "training"
        facts.append((f"best {split} loss", number(findings.best.loss), f"at step {findings.best.step:,}"))
    for name, label in (("valid/bits_per_byte", "bits per byte"), ("valid/perplexity", "perplexity")):
        if (value := files.last(name)) is not None:
            facts.append((label, number(value), "last validation"))
    if (speed := files.last("tokens_per_second")) is not None:
        mfu = files.last("mfu")
        facts.append(("tokens a second", short_number(speed), "" if mfu is None else f"{mfu:.1%} MFU"))
    if (goodput := files.last("goodput")) is not None:
        facts.append(("goodput", f"{goodput:.1%}", "of the time went into steps"))
    if skipped := files.last("skipped_updates"):
        facts.append(("skipped updates", number(skipped), "of faulty steps"))
    cells = "".join(
        f'<div class="tile"><span>{label}</span><b>{value}</b><small>{note}</small></div>'
        for label, value, note in facts
    )
    return f'<div class="tiles">{cells}</div>'


def overview(runs: Sequence[Shown]) -> str:
    """Returns a table with one row for each run."""
    rows = []
    for index, run in enumerate(runs):
        findings, files = run.findings, run.files
        best = findings.best
        speed, goodput = files.last("tokens_per_second"), files.last("goodput")
        rows.append(
            (
                f'<i class="key c{index % 8}"></i>{text(run.name)}',
                number(findings.level),
                "–" if best is None else f"{number(best.loss)} <small>at {best.step:,}</small>",
                number(files.last("valid/bits_per_byte")),
                "–" if speed is None else short_number(speed),
                "–" if goodput is None else f"{goodput:.1%}",
                f"{files.last_step:,}",
                text(files.state),
                text(files.objective or "–"),
            )
        )
    head = ("run", "training loss", "best loss", "bits/byte", "tokens/s", "goodput", "step", "state", "objective")
    return table(head, rows)


def evaluations(runs: Sequence[Shown]) -> str:
    """Returns a table of all evaluations: the last value of each number, and the best where that is known."""
    names = evaluated_numbers(runs)
    if not names:
        return ""
    rows = []
    for name in names:
        cells = []
        for run in runs:
            steps, values = column(run.files.lines, name)
            known = np.isfinite(values)
            cells.append(_last_and_best(name, steps[known], values[known]) if known.any() else "–")
        rows.append((text(name), *cells))
    return table(("number", *(text(run.name) for run in runs)), rows)


def _last_and_best(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    last = f"{number(values[-1])} <small>at {int(steps[-1]):,}</small>"
    kind = name.rpartition("/")[2]
    best = None
    if kind.endswith(_LOWER_IS_BETTER):
        best = int(np.argmin(values))
    elif kind.startswith(_HIGHER_IS_BETTER):
        best = int(np.argmax(values))
    if best is None or best == len(values) - 1:
        return last
    return f"{last}<br><small>best {number(values[best])} at {int(steps[best]):,}</small>"


MOST_SAMPLES = 8
"""How many texts of a prompt are shown at once; the others are folded away."""


def samples(runs: Sequence[Shown]) -> str:
    """Returns a section with the texts that the runs wrote while they trained, by prompt; empty if there are none."""
    parts = []
    for run in runs:
        by_prompt: dict[tuple[str, str], list[Sample]] = {}
        for sample in run.files.samples:
            by_prompt.setdefault((sample.evaluation, sample.prompt), []).append(sample)
        for (evaluation, prompt), own in by_prompt.items():
            beginning = f"after “{text(prompt)}”" if prompt else "from the beginning"
            caption = " · ".join([text(run.name)] * (len(runs) > 1) + [text(evaluation), beginning])
            shown = {round(place) for place in np.linspace(0, len(own) - 1, min(len(own), MOST_SAMPLES))}
            parts.append(_texts((own[place] for place in sorted(shown)), caption=caption))
            if len(shown) < len(own):
                everything = _texts(own)
                parts.append(f"<details><summary>all {len(own)} texts</summary>{everything}</details>")
    return f'<section class="card"><h2>Texts over time</h2>{"".join(parts)}</section>' if parts else ""


def _texts(samples: Iterable[Sample], *, caption: str = "") -> str:
    rows = ((f"{sample.step:,}", f'<span class="written">{text(sample.text)}</span>') for sample in samples)
    return table(("step", "text"), rows, caption=caption, style="texts")


def laws(runs: Sequence[Shown]) -> str:
    """Returns a table of the power laws and their forecasts."""
    fitted = [(run, run.findings.law) for run in runs if run.findings.law is not None]
    if not fitted:
        reasons = "".join(f"<li>{text(run.name)}: {text(run.findings.no_law)}</li>" for run in runs)
        return f"<ul>{reasons}</ul>"
    rows: list[list[str]] = [["E, the loss in the end"], ["A"], ["α"]]
    rows += [[f"loss at {times} times the steps"] for times in (2, 5, 10)]
    rows.append(["steps to 2% less loss"])
    for _, law in fitted:
        goal = 0.98 * float(law.law(law.last_step))
        estimates = [law.offset, law.scale, law.exponent, *law.forecasts((2, 5, 10)).values(), law.steps_to(goal)]
        for row, estimate in zip(rows, estimates, strict=True):
            row.append(_estimate(estimate))
    return table(("L(t) = E + A t<sup>−α</sup>", *(text(run.name) for run, _ in fitted)), rows)


def _estimate(estimate: Estimate) -> str:
    return f"{number(estimate.value)} <small>{number(estimate.low)} to {number(estimate.high)}</small>"


def settings(runs: Sequence[Shown]) -> str:
    """Returns the settings of the runs: those that differ first, if there are several runs."""
    paths = dict.fromkeys(path for run in runs for path in run.files.settings)
    rows = [(path, [run.files.settings.get(path) for run in runs]) for path in paths]
    if not rows:
        return "<p>No config.json could be read.</p>"
    head = ("field", *(text(run.name) for run in runs))
    differing = [(path, values) for path, values in rows if any(value != values[0] for value in values)]
    parts = []
    if len(runs) > 1:
        parts.append(table(head, _cells(differing)) if differing else "<p>The settings are the same.</p>")
    parts.append(f"<details><summary>all {len(rows)} settings</summary>{table(head, _cells(rows))}</details>")
    return "".join(parts)


def _cells(rows: Sequence[tuple[str, Sequence[Any]]]) -> list[tuple[str, ...]]:
    return [(text(path), *(text("–" if value is None else value) for value in values)) for path, values in rows]


def warnings(runs: Sequence[Shown]) -> str:
    """Returns the warnings of all runs as a list."""
    lines = [
        f"<li>{f'<b>{text(run.name)}</b> ' if len(runs) > 1 else ''}{text(warning[:1].upper() + warning[1:])}.</li>"
        for run in runs
        for warning in run.findings.warnings
    ]
    if not lines:
        return '<p class="good">Nothing to warn of: no spike, plateau, divergence or overfitting was found.</p>'
    more = f"<p><small>and {len(lines) - 30} more</small></p>" if len(lines) > 30 else ""
    return f'<ul class="warnings">{"".join(lines[:30])}</ul>{more}'
