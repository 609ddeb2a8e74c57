"""Imports lmjax once, and then runs each command line it reads in a fork: starting costs no import.

It reads a line of JSON for each command: its arguments, its working folder, and the file for its output. It answers
with the id of the process, and with its exit code once it has ended.
"""

import json
import os
import sys

import lmjax.cli.errors
import lmjax.cli.train  # noqa: F401
from lmjax.cli.main import main


def run(request: dict) -> None:
    """Becomes the command."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nowhere, output, output)):
        os.dup2(descriptor, number)
    os.chdir(request["folder"])
    os.setsid()
    sys.argv = ["lmjax", *request["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    sys.stdout.flush()
    os._exit(code)


for line in sys.stdin:
    process = os.fork()
    if process == 0:
        run(json.loads(line))
    print(process, flush=True)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
