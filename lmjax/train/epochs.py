"""How often a run reads each source of a mixture: said and limited beforehand, and reported as the run goes on."""

from collections.abc import Mapping

from lmjax.data.rows.source import RowSource
from lmjax.train.curriculum import Curriculum


def epochs_at(rows: RowSource, curriculum: Curriculum, step: int) -> dict[str, float]:
    """Returns how often each source of a mixture was read before a step, by name; empty for a single source.

    Rows that were passed over do not count.

    Args:
      rows: the training rows of the run.
      curriculum: the phases of the run, which say how many rows its steps have read.
      step: number of steps.
    """
    placed = rows.placed(curriculum.stages)
    read = dict.fromkeys(placed.epochs(0), 0.0)
    for first, end in curriculum.blocks(step):
        before, after = placed.epochs(first), placed.epochs(end)
        read = {name: times + after[name] - before[name] for name, times in read.items()}
    return read


def check_epochs(rows: RowSource, curriculum: Curriculum, *, steps: int, limits: Mapping[str, float]) -> None:
    """Refuses a run that would read a source more often than it may be read.

    Args:
      rows: the training rows of the run.
      curriculum: the phases of the run.
      steps: number of steps of the run.
      limits: ``data.max_epochs``.

    Raises:
      ValueError: naming the source, how often it would be read, and the step at which the limit is reached.
    """
    read = epochs_at(rows, curriculum, steps)
    for name, limit in limits.items():
        if read.get(name, 0.0) <= limit:
            continue
        low, high = 0, steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if epochs_at(rows, curriculum, middle)[name] <= limit else (low, middle)
        raise ValueError(
            f"data.max_epochs: {name}={limit:g}: these weights would read it {read[name]:.2f} times in {steps} steps, "
            f"and {limit:g} times by step {low}: lower its weight, begin a stage without it (data.stages) by then, or "
            f"raise the limit"
        )
