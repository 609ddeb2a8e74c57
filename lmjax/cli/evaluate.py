"""`lmjax evaluate RUN`: measures a run on its validation set, texts, pairs, labels, references or harness tasks."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tyro
from rich.console import Console

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.cli.own_data import measure_own_data
from lmjax.evaluate.extras import needed
from lmjax.evaluate.probe import Probe, probe
from lmjax.evaluate.references import measure_writing
from lmjax.evaluate.side_by_side import compare_on
from lmjax.evaluate.tables import table
from lmjax.evaluate.text import TextOptions
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.evaluations.retrieval import Retrieval
from lmjax.train.run_folder import BestOrStep

WAYS = {
    None: ("prepared", "split", "batches"),
    "on": ("window", "stride", "documents", "prefix_token", "draws", "by"),
    "pairs": ("fields", "ks"),
    "labelled": ("test_share", "seed"),
    "references": ("max_new_tokens", "stop", "output"),
    "tasks": ("task_path", "num_fewshot", "limit", "window", "prefix_token", "run_code"),
}
"""What can be measured, by the option that asks for it (None: the run's own data), and the options that go with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Evaluate a run's model: on its validation set, or on what one of --on, --pairs, --labelled, --references and
    --tasks names. The last line is one JSON object."""

    run: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """The run folder; with --on several, which are compared."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""
    prepared: pathlib.Path | None = None
    """Another prepared folder than the run's own data, made with the run's tokenizer."""
    split: Literal["valid", "train"] = "valid"
    """Which documents of the prepared data."""
    batches: int = 0
    """Batches to use of the prepared data; 0 takes the whole split."""
    on: tuple[str, ...] = ()
    """Text files, folders or globs: perplexity by a sliding window, pseudo-perplexity of an encoder, the bound of a
    diffusion model."""
    window: int | None = None
    """Tokens the model reads at once; the length of its training rows when unset."""
    stride: int | None = None
    """Tokens that each window after the first one scores, those at its end; half the window when unset."""
    documents: int = 0
    """Documents to take of each file; 0 takes all."""
    prefix_token: str | None = None
    """The special token before each text, by name; when unset what the run's documents follow."""
    draws: int | None = None
    """Draws of noise for a diffusion model's bound; 8 when unset."""
    by: Literal["bits_per_byte"] | None = None
    """Compare runs by bits per byte, so that their tokenizers may differ."""
    pairs: pathlib.Path | None = None
    """JSON lines with a query and its text each: recall and mean reciprocal rank of a dual encoder."""
    fields: tuple[str, str] = ("query", "key")
    """The fields of the query and its text in --pairs."""
    ks: tuple[int, ...] = (1, 5, 10)
    """The numbers of first texts at which recall is measured."""
    labelled: pathlib.Path | None = None
    """JSON lines with `text` and `label`: accuracy of a linear classifier on the frozen hidden states."""
    test_share: float = 0.2
    """The share of the labelled texts to test on."""
    seed: int = 0
    """Decides which texts are for testing."""
    references: pathlib.Path | None = None
    """JSON lines with `prompt` and `reference` (a text or several): BLEU and ROUGE of what the run writes."""
    max_new_tokens: int | None = None
    """The largest number of tokens to write after a prompt."""
    stop: tuple[str, ...] = ()
    """Strings that end a text that is written."""
    output: pathlib.Path | None = None
    """A file for the texts that are written."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, by name, separated by commas or spaces."""
    task_path: pathlib.Path | None = None
    """A folder with task files of your own; the Python functions that they name are run."""
    num_fewshot: int | None = None
    """Examples before each question of the tasks; what a task says when unset."""
    limit: int | None = None
    """Questions of each task."""
    run_code: bool = False
    """Let tasks run code that the model has written."""

    def __post_init__(self):
        if not self.run:
            raise ValueError("name a run folder, as in `lmjax evaluate runs/stdlib_demo`")
        for name in ("batches", "documents"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative; 0 takes all")
        for name, least in (("window", 1), ("stride", 1), ("max_new_tokens", 1), ("limit", 1), ("num_fewshot", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: must be at least {least}")
        if len(self._asked) > 1:
            raise ValueError(f"--{' and --'.join(self._asked)}: give one of them at a time")
        self._check_options(self.way)
        if len(self.run) > 1 and self.way != "on":
            raise ValueError(f"{len(self.run)} runs are compared on texts: give --on FILE, or one run")

    def _check_options(self, way: str | None) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in dict.fromkeys(name for names in WAYS.values() for name in names):
            if name not in WAYS[way] and getattr(self, name) != defaults[name]:
                homes = " or ".join(f"--{other}" for other, names in WAYS.items() if other and name in names)
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{option} goes with {homes}"
                    if homes
                    else f"{option} is of prepared data, not of --{way}: leave it out"
                )

    @property
    def way(self) -> str | None:
        """What is to be measured."""
        return next(iter(self._asked), None)

    @property
    def _asked(self) -> list[str]:
        return [way for way in WAYS if way is not None and getattr(self, way)]


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(EvaluateArguments, arguments, command="evaluate", runs=("run",), data=("prepared",))
    opened = {str(folder): runs.open(folder, step=options.step) for folder in options.run}
    first = opened[str(options.run[0])]
    match options.way:
        case "on":
            _on_texts(opened, options)
        case "pairs":
            _print(
                first,
                "pairs",
                first.evaluate(Retrieval(name="pairs", pairs=str(options.pairs), fields=options.fields, ks=options.ks)),
            )
        case "labelled":
            assert options.labelled is not None
            _print(
                first,
                "probe",
                probe(first, Probe(path=options.labelled, test_share=options.test_share, seed=options.seed)),
            )
        case "references":
            assert options.references is not None
            written = measure_writing(
                first,
                options.references,
                output=options.output,
                max_new_tokens=options.max_new_tokens,
                stop=options.stop,
            )
            _print(first, "references", written)
        case "tasks":
            _on_tasks(first, options)
        case _:
            reading = measure_own_data(first, prepared=options.prepared, split=options.split, batches=options.batches)
            _print(first, options.split, reading)


def _on_texts(opened: Mapping[str, runs.Run], options: EvaluateArguments) -> None:
    how = TextOptions(
        window=options.window,
        stride=options.stride,
        documents=options.documents,
        prefix_token=options.prefix_token,
        draws=options.draws,
    )
    readings = compare_on(opened, options.on, how, by=options.by)
    if len(readings) == 1:
        ((name, reading),) = readings.items()
        _print(opened[name], "text", reading)
        return
    for note in dict.fromkeys(note for reading in readings.values() for note in reading.notes):
        print(note)
    parts = {name: {**reading.numbers, **reading.counts} for name, reading in readings.items()}
    Console(highlight=False).print(table("run", parts))
    print(json.dumps({name: {"step": opened[name].step, **numbers} for name, numbers in parts.items()}))


def _on_tasks(opened: runs.Run, options: EvaluateArguments) -> None:
    needed("lm_eval", package="lm-eval", what="--tasks")
    from lmjax.evaluate.harness import evaluate_tasks

    names = [name for given in options.tasks for name in given.split(",") if name]
    found = evaluate_tasks(
        opened,
        names,
        task_path=options.task_path,
        num_fewshot=options.num_fewshot,
        limit=options.limit,
        window=options.window,
        prefix_token=options.prefix_token,
        run_code=options.run_code,
    )
    parts = {
        f"{task} {metric}": {"value": value, "standard_error": metrics.get(f"{metric}_stderr", math.nan)}
        for task, metrics in found.items()
        for metric, value in metrics.items()
        if not metric.endswith("_stderr")
    }
    Console(highlight=False).print(table("task", parts))
    print(json.dumps({"step": opened.step, "tasks": found}))


def _print(opened: runs.Run, name: str, reading: Reading) -> None:
    """Prints notes and tables, and then all numbers as one JSON object."""
    for note in reading.notes:
        print(note)
    for title, parts in reading.tables.items():
        if len(parts) > 1:
            Console(highlight=False).print(table(title, parts))
    numbers: dict[str, Any] = {f"{name}/{key}": value for key, value in {**reading.numbers, **reading.counts}.items()}
    print(json.dumps({"step": opened.step, **numbers, **reading.tables}))
