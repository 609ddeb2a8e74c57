"""Puts a report together: the template with tables, style, script and data, all in one file."""

import importlib.resources
import json
import os
import pathlib
import string
import time
from collections.abc import Sequence

from lmjax.analysis.plots import run_names
from lmjax.analysis.report import tables
from lmjax.analysis.report.charts import Shown, charts
from lmjax.analysis.report.findings import find
from lmjax.analysis.run_files import read_run
from lmjax.atomic_files import write_file


def write_report(folders: Sequence[str | os.PathLike], output: str | os.PathLike) -> pathlib.Path:
    """Writes one HTML page about runs: curves, warnings, evaluations, the power law of the loss, and settings.

    The page holds all that it needs and asks for nothing from a network.

    Args:
      folders: the run folders.
      output: the file to write.

    Returns:
      The path of the file.

    Raises:
      ValueError: a folder is not a run that has begun, or the file cannot be written there.
    """
    output = pathlib.Path(output)
    if output.is_dir():
        raise ValueError(f"the report cannot be written: {output} is a folder: name another file")
    page = render(folders)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file(output, page)
    return output


def render(folders: Sequence[str | os.PathLike]) -> str:
    """Returns the page as text, see :func:`write_report`."""
    paths = list({path.resolve(): path for path in map(pathlib.Path, folders)}.values())
    if not paths:
        raise ValueError("name at least one run folder, as in `lmjax report runs/stdlib_demo`")
    files = [read_run(path) for path in paths]
    runs = [Shown(files=one, name=name, findings=find(one)) for one, name in zip(files, run_names(paths), strict=True)]
    names = " · ".join(run.name for run in runs)
    parts = {
        "title": tables.text(names if len(names) <= 80 else f"{len(runs)} runs"),
        "subtitle": tables.text(_subtitle(runs)),
        "summary": tables.tiles(runs[0]) if len(runs) == 1 else tables.overview(runs),
        "warnings": tables.warnings(runs),
        "evaluations": tables.evaluations(runs) or "<p>There are none.</p>",
        "samples": tables.samples(runs),
        "laws": tables.laws(runs),
        "settings": tables.settings(runs),
        "data": _in_script({"runs": [run.name for run in runs], "charts": charts(runs)}),
        "style": _resource("page.css"),
        "script": _resource("page.js") + _resource("scales.js"),
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }
    return string.Template(_resource("page.html")).substitute(parts)


def _subtitle(runs: Sequence[Shown]) -> str:
    objectives = ", ".join(dict.fromkeys(run.files.objective for run in runs if run.files.objective))
    number = f"{len(runs)} runs" if len(runs) > 1 else f"recipe {runs[0].files.name}"
    return f"{number} · {objectives}" if objectives else number


def _in_script(value: object) -> str:
    """Returns JSON that may stand within a script element, which only the signs of a tag could end."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
