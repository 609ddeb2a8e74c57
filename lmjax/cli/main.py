"""The command `lmjax`: one small module a subcommand, imported only when it is called."""

import difflib
import importlib
import keyword
import sys

from lmjax.cli.allocator import begin_again_with_large_blocks
from lmjax.cli.compile_cache import use_compile_cache
from lmjax.cli.streams import repair_streams
from lmjax.parallel.signals import ending_at_once

COMMANDS = {
    "train": "train a recipe, or go on where it stopped",
    "prepare": "turn a recipe's text into token shards",
    "tokenizer": "train a recipe's tokenizer, and show how it cuts a text",
    "inspect": "what prepared data hold; or, of a run, the rows of a step with their losses",
    "preview": "print rows as the model sees them: input, target, weights, who attends to whom",
    "evaluate": "measure a run: validation set, perplexity of texts, retrieval, probes, BLEU, harness tasks",
    "sample": "write text with a run's model: continue prompts, answer them, fill a gap",
    "fill-mask": "name the tokens an encoder would put in the place of masks",
    "embed": "vectors of texts, by a run that compares texts",
    "import": "make a run of a Hugging Face model's folder",
    "export": "write a run's model as a Hugging Face folder",
    "extend": "make a run whose tokenizer has more tokens than another's",
    "compare": "two runs on the same texts: what continued training kept and gained",
    "compile": "compile a recipe's step for TPUs that are not here: does it fit, how fast will it be",
    "coordinates": "train a few steps at several widths: do they train alike (muP)",
    "plot": "draw the loss curves of one or more runs",
    "report": "one HTML page about one or more runs: curves, warnings, evaluations, settings",
    "scaling": "the scaling law of runs of several sizes: which model for which budget",
    "runs": "list runs with their losses, speeds and states",
}


def main() -> None:
    """Runs a subcommand, and ends the process with one of the exit codes in :mod:`lmjax.cli.errors`."""
    if sys.argv[1:2] == ["train"]:
        begin_again_with_large_blocks()
    repair_streams()
    with ending_at_once():
        # This is imported inside the context, because importing jax takes a second.
        from lmjax.cli.errors import run_command

        run_command(lambda: _run(sys.argv[1:]))


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f": did you mean `lmjax {near[0]}`?" if near else f"\n\n{_usage()}"
        raise ValueError(f"unknown command {name!r}{hint}")
    use_compile_cache()
    # A module cannot be called `import`, and cannot have a dash in its name.
    module = name.replace("-", "_") + ("_" if keyword.iskeyword(name) else "")
    importlib.import_module(f"lmjax.cli.{module}").run(rest)


def _usage() -> str:
    rows = "\n".join(f"  {name:<11} {text}" for name, text in COMMANDS.items())
    return f"usage: lmjax COMMAND ...\n\n{rows}\n\n`lmjax COMMAND --help` shows a command's options."
