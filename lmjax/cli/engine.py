"""``--engine ADDRESS`` and ``--workers N``: where the units of `lmjax prepare` and `lmjax curate` are worked on."""

from collections.abc import Sequence

from lmjax.parallel.joint_work import Where

OPTIONS = """
  --workers N       processes of this machine (default: one for each core)
  --engine ADDRESS  have the workers of a Dask cluster do the work instead, as in tcp://HOST:8786
"""


def take_where(arguments: Sequence[str]) -> tuple[Where, list[str]]:
    """Returns these options, and the other arguments.

    Raises:
      ValueError: an option has no value, or an impossible one.
    """
    found: dict[str, str] = {}
    left = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--engine", "--workers"):
            left.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("--"):
            raise ValueError(f"{option}: give a value\n{OPTIONS}")
        found[option] = value
    engine, workers = found.get("--engine"), found.get("--workers")
    if engine is not None and workers is not None:
        raise ValueError(f"--engine {engine} has workers of its own: leave out --workers {workers}")
    if workers is not None and not (workers.isdecimal() and int(workers) > 0):
        raise ValueError(f"--workers {workers}: must be a number of at least 1")
    return Where(engine=engine, workers=None if workers is None else int(workers)), left
