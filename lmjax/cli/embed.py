"""`lmjax embed RUN --texts FILE`: the vectors of texts, as a .npy file or as JSON lines."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import tyro

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.cli.shown_text import given_texts
from lmjax.runs.embedding import Role
from lmjax.train.run_folder import BestOrStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """Compute the vectors of texts with a run of the objective Contrastive."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    text: str | None = None
    """One text; - reads it from standard input."""
    texts: pathlib.Path | None = None
    """A file of texts instead: a line each, or JSON lines (.jsonl) with a string or a field `text` each."""
    output: pathlib.Path | None = None
    """Where to write: a .npy file (float32, a row a text), or a .jsonl file; when unset JSON lines are printed."""
    role: Role = "query"
    """Which encoder reads the texts, where queries and keys have one each."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""

    def __post_init__(self):
        if (self.text is None) == (self.texts is None):
            raise ValueError("give --text TEXT or --texts FILE, and not both")
        if self.output is not None and self.output.suffix not in (".npy", ".jsonl"):
            raise ValueError(f"--output {self.output}: the name must end in .npy or .jsonl")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(EmbedArguments, arguments, command="embed", runs=("run",))
    opened = runs.open(options.run, step=options.step)
    texts = given_texts(options.text, options.texts)
    vectors = opened.embed(texts, role=options.role)
    lines = (
        json.dumps({"text": t, "embedding": v.tolist()}, ensure_ascii=False)
        for t, v in zip(texts, vectors, strict=True)
    )
    if options.output is None:
        print(*lines, sep="\n")
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.output.suffix == ".npy":
        np.save(options.output, vectors)
    else:
        options.output.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(vectors)} vectors of {vectors.shape[1]} numbers: {options.output}")
