"""Runs as objects: open one to write, score or embed text; import, export and extend models.

    import lmjax.runs

    run = lmjax.runs.open("runs/stdlib_demo")
    print(run.sample("def ", max_new_tokens=50)[0])
    print(run.score(["import os"])[0].bits_per_byte)

The command line calls what is here and adds options and messages.
"""

from lmjax.runs.extend import Extended, extend
from lmjax.runs.hf_export import Exported, export_hf
from lmjax.runs.hf_import import Converted, import_hf
from lmjax.runs.run import Run
from lmjax.runs.run import open_run as open
from lmjax.runs.scoring import Score

__all__ = ["Converted", "Exported", "Extended", "Run", "Score", "export_hf", "extend", "import_hf", "open"]
