"""A curation from beginning to end; resumable, and with the same result however the work is divided.

Each stage has one task a unit; at its end all documents are compared, if its last rule says so. Several processes may
curate into one folder at the same time: they divide the tasks among themselves, as in ``lmjax prepare``.
"""

import collections
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmjax.atomic_files import replacing, write_file, write_json
from lmjax.choice import class_name
from lmjax.curate.config import Curation
from lmjax.curate.duplicates import clusters
from lmjax.curate.ledger import Ledger
from lmjax.curate.report import Report, as_html, as_text
from lmjax.curate.unit import REPORT, WORK, CurateUnits, Unit, check_rules
from lmjax.data.manifest import read_json
from lmjax.data.prepare.sources import find_files, fingerprint, plan_units
from lmjax.data.prepare.workers import with_whole_paths
from lmjax.data.tally import Tally
from lmjax.naming import naming
from lmjax.parallel.folder_lock import LOCK_FILE, FolderInUseError, folder_lock
from lmjax.parallel.joint_work import Progress, do_all, has_members, membership
from lmjax.parallel.signals import kept

PLAN = "plan.json"
CURATING = "is being curated"
_CLUSTERS = "clusters.json"
_LIBRARIES = ("datatrove", "rensa", "spacy")


def curate(
    curation: Curation,
    *,
    num_workers: int | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Takes the raw text through the rules, and writes what is left and a report; returns at once if that is done.

    Args:
      curation: the raw text, the rules and the folder.
      num_workers: processes of this machine; by default one for each core.
      engine: the address of a Dask scheduler, whose workers do the work instead; they need the same paths.
      progress: called with the bytes of input that are done, in this stage and in those before, and the bytes in all.

    Raises:
      ValueError: bad input (named), a rule that lacks something, or a folder that holds anything else.
      CurationError: a rule has failed on a document.
      WorkerDiedError: a worker died.
    """
    folder = pathlib.Path(curation.folder)
    units = _units(curation)
    plan = _plan(curation, len(units))
    if (report := _finished(folder, plan)) is not None:
        return report
    check_rules(curation)
    resumable = kept(f"what is curated in {folder} stays: the same command goes on from there")
    with resumable, contextlib.ExitStack() as member:
        with folder_lock(folder, CURATING, wait=True):
            if (report := _finished(folder, plan)) is not None:
                return report
            _begin(folder, plan, curation)
            member.enter_context(membership(folder / WORK, CURATING))
        stages = [
            CurateUnits(curation=curation, folder=folder.absolute(), stage=n) for n in range(len(curation.stages))
        ]
        sizes = {number: sum(piece.end - piece.begin for piece in unit.pieces) for number, unit in units.items()}
        total = sum(sizes.values())
        for number, stage in enumerate(stages):

            def report_progress(done: int, _: int, before: int = number * total) -> None:
                if progress is not None:
                    progress(before + done, total * len(stages))

            do_all(stage, units, sizes, num_workers=num_workers, engine=engine, progress=report_progress)
            if stage.comparison is not None:
                with folder_lock(folder, CURATING, wait=True):
                    _compare(stage, len(units))
        with folder_lock(folder, CURATING, wait=True):
            return _finished(folder, plan) or _finish(folder, plan, curation, stages, units)


def _units(curation: Curation) -> dict[int, Unit]:
    units: list[Unit] = []
    for source in curation.sources:
        with naming(f"sources: {source}"):
            files = find_files(curation.reading(source))
        for number, pieces in enumerate(plan_units(files, curation.unit_bytes)):
            units.append(Unit(source=source, name=f"{number:05d}", pieces=with_whole_paths(pieces)))
    return dict(enumerate(units))


def _plan(curation: Curation, num_units: int) -> dict[str, Any]:
    """Returns all that the result depends on, as JSON gives it back."""
    settings = dataclasses.asdict(curation)
    del settings["folder"]
    rules = [
        {
            "type": class_name(type(rule)),
            **dataclasses.asdict(rule),
            "files": [hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() for path in _there(rule.files())],
        }
        for rule in curation.rules
    ]
    # A list, for the order of the sources decides which one of several copies stays.
    source = [[name, fingerprint(find_files(curation.reading(name)))] for name in curation.sources]
    plan = {"settings": settings | {"rules": rules}, "source": source, "units": num_units, "libraries": _libraries()}
    return json.loads(json.dumps(plan))


def _there(paths: Sequence[str]) -> list[str]:
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise ValueError(f"{path}: a rule names this file, and it is not there: correct the path")
    return list(paths)


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _finished(folder: pathlib.Path, plan: dict[str, Any]) -> Report | None:
    if not (folder / REPORT).exists():
        return None
    content = read_json(folder / REPORT)
    found = content.get("plan", {})
    for key in ("settings", "source"):
        if found.get(key) != plan[key]:
            what = "from other text"
            if key == "settings":
                names = [name for name in plan[key] if found.get(key, {}).get(name) != plan[key][name]]
                what = f"with other {', '.join(names) or key}"
            raise ValueError(f"{folder} holds a curation {what}: choose another folder, or delete it")
    return Report.from_json(content)


def _begin(folder: pathlib.Path, plan: dict[str, Any], curation: Curation) -> None:
    """Prepares the folder, which is new, or holds a curation that was stopped or that other processes work on."""
    path = folder / PLAN
    same = path.exists() and read_json(path) == plan
    if has_members(folder / WORK):
        if same:
            return
        raise FolderInUseError(
            f"{folder} is being curated by other processes, from other text or with other rules: wait until they are "
            f"done, end them, or choose another folder"
        )
    if not path.exists() and any(one.name != LOCK_FILE for one in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no curation: choose another folder")
    if not same:
        for name in (WORK, *(read_json(path)["settings"]["sources"] if path.exists() else ())):
            shutil.rmtree(folder / name, ignore_errors=True)
    for stage in range(len(curation.stages)):
        (folder / WORK / str(stage)).mkdir(parents=True, exist_ok=True)
    for source in curation.sources:
        (folder / source).mkdir(exist_ok=True)
    for partial in folder.rglob(".*.partial"):
        partial.unlink()
    write_json(path, plan)


def _compare(stage: CurateUnits, num_units: int) -> None:
    """Compares the documents of all units by their keys, and writes for each unit which of them are dropped."""
    path = stage.folder / WORK / str(stage.stage) / _CLUSTERS
    if path.exists() or (stage.folder / REPORT).exists():
        return
    assert stage.comparison is not None
    bounds = np.cumsum([0, *(stage.keys(number).shape[1] for number in range(num_units))])
    columns = (
        np.concatenate([stage.keys(number)[place] for number in range(num_units)])
        for place in range(stage.comparison.num_keys)
    )
    first_N = clusters(columns, int(bounds[-1]))
    drops_N = first_N != np.arange(len(first_N))
    for number in range(num_units):
        with replacing(stage.path(number, ".drops.npy")) as file:
            np.save(file, drops_N[bounds[number] : bounds[number + 1]])
    sizes = collections.Counter(np.bincount(first_N[drops_N]).tolist()) if drops_N.any() else collections.Counter()
    del sizes[0]
    write_json(path, {str(copies + 1): number for copies, number in sorted(sizes.items())})


def _finish(
    folder: pathlib.Path,
    plan: dict[str, Any],
    curation: Curation,
    stages: Sequence[CurateUnits],
    units: dict[int, Unit],
) -> Report:
    """Adds up the entries of all units, writes the reports, and removes what they make superfluous."""
    ledger, tallies, sizes = Ledger(curation.examples), dict[str, Tally](), {}
    for stage in stages:
        for number, unit in units.items():
            noted, tally = stage.entry(number)
            ledger.add(noted)
            tallies.setdefault(unit.source, Tally()).add(tally)
        if stage.comparison is not None:
            path = folder / WORK / str(stage.stage) / _CLUSTERS
            sizes[curation.stages[stage.stage][-1]] = {int(size): n for size, n in read_json(path).items()}
    for source, tally in tallies.items():
        with naming(f"sources: {source}"):
            tally.check(curation.reading(source))
    notes = [f"{source}: {note}" for source, tally in sorted(tallies.items()) for note in tally.notes]
    report = Report(
        rules=tuple(rule.name for rule in curation.rules), ledger=ledger, clusters=sizes, notes=tuple(notes), plan=plan
    )
    write_file(folder / "report.txt", as_text(report))
    write_file(folder / "report.html", as_html(report))
    write_json(folder / REPORT, report.to_json())
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / PLAN).unlink()
    return report
