"""One training step of the same model in several libraries: shapes, and the race of the sides that compute it.

The sides are `steps_lmjax.py`, `steps_flax.py` and `steps_torch.py`, scripts that take a :class:`Shape` as JSON. A step
is forward and backward pass, clipping to a norm of 1, AdamW, and a new batch; nothing has dropout. Nothing here imports
jax or torch.
"""

import contextlib
import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from turns import Side, SideError, ratio, take_turns

FOLDER = pathlib.Path(__file__).parent
RATE = 0.15
"""The share of tokens that masked models predict, and that T5 drops."""
SENTINELS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its batch."""

    family: Literal["gpt", "llama", "bert", "modernbert", "t5"]
    """Architecture and objective: GPT-2 and Llama (causal), BERT and ModernBERT (masked), T5 (spans)."""
    layers: int
    """Blocks; of the encoder and of the decoder, each, for T5."""
    width: int
    """Model width."""
    heads: int
    """Query heads."""
    vocabulary: int
    """Ids."""
    length: int
    """Tokens of a row; of the encoder's row for T5."""
    batch: int
    """Rows of a step."""
    kv_heads: int | None = None
    """Key-value heads; as many as there are query heads when unset."""
    feedforward: int | None = None
    """Hidden width of the feed-forward: 4 x width when unset, and for gated ones 8/3 x width rounded up to 64."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic; parameters are float32 (torch: autocast)."""

    @property
    def hidden(self) -> int:
        """The hidden width of the feed-forward."""
        if self.feedforward is not None:
            return self.feedforward
        return -(-8 * self.width // (3 * 64)) * 64 if self.family in ("llama", "modernbert") else 4 * self.width

    @property
    def target_length(self) -> int:
        """The positions of T5's decoder: the dropped tokens, a sentinel for each span of 3, and the end.

        The encoder's row holds the other tokens of a text of ``n``, and a sentinel for each span.
        """
        return max(round(self.length * RATE * 4 / (3 * (1 - RATE) + RATE)), 2)

    def to_json(self) -> str:
        """Returns the shape as a side takes it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Shape":
        """Returns the shape that :meth:`to_json` wrote."""
        return cls(**json.loads(text))


@dataclasses.dataclass(frozen=True)
class Contender:
    """A side of a race before it is started.

    Attributes:
      name: what the table calls it.
      python: the interpreter that runs it.
      script: one of the scripts beside this file.
      options: further arguments of the script, after the shape.
      environment: variables of this side alone.
    """

    name: str
    python: str
    script: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def command(self, shape: Shape) -> list[str]:
        """Returns its command line."""
        return [self.python, str(FOLDER / self.script), shape.to_json(), *self.options]


OURS = "lmjax"


def ours(name: str = OURS, *options: str) -> Contender:
    """Returns our own side."""
    return Contender(name, sys.executable, "steps_lmjax.py", options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a race found of one side.

    Attributes:
      side: its name.
      seconds: of a step, in each round.
      tokens_per_second: the median.
      ratio: how many times as fast our side is; the median of the rounds' ratios. None without it.
      peak_bytes: the most memory that it used.
      facts: what it told about itself.
      missing: why there are no figures; None where there are.
    """

    side: str
    seconds: tuple[float, ...] = ()
    tokens_per_second: float | None = None
    ratio: float | None = None
    peak_bytes: int | None = None
    facts: Mapping = dataclasses.field(default_factory=dict)
    missing: str | None = None


def race(
    shape: Shape,
    contenders: Sequence[Contender],
    *,
    rounds: int,
    steps: int,
    environment: Mapping[str, str] | None = None,
    together: bool = True,
) -> Iterator[Result]:
    """Yields what each side does of a shape, in order; one that cannot run is named with its reason.

    Args:
      shape: the model and its batch.
      contenders: the sides. The one that is named ``lmjax`` comes first; the others are compared with it.
      rounds: turns of each side.
      steps: training steps of a turn.
      environment: variables of all sides.
      together: whether all are started first and take turns; else one after the other has its turns alone, for models
        of which the memory holds only one.
    """
    own: tuple[float, ...] | None = None
    for group in [list(contenders)] if together else [[one] for one in contenders]:
        times, sides, missing = _turns(shape, group, rounds=rounds, steps=steps, environment=environment or {})
        for name in (one.name for one in group):
            if name in missing:
                yield Result(side=name, missing=missing[name][:200])
                continue
            seconds = tuple(value / steps for value in times[name])
            own = seconds if name == OURS else own
            yield Result(
                side=name,
                seconds=seconds,
                tokens_per_second=shape.batch * shape.length / statistics.median(seconds),
                ratio=None if own is None or name == OURS else ratio(seconds, own),
                peak_bytes=sides[name].peak_bytes,
                facts=sides[name].facts,
            )


def _turns(
    shape: Shape, group: Sequence[Contender], *, rounds: int, steps: int, environment: Mapping[str, str]
) -> tuple[dict[str, list[float]], dict[str, Side], dict[str, str]]:
    """Returns the seconds of each turn, the sides that had them, and the reasons of those that did not."""
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for one in group:
            side = Side(one.command(shape), {**environment, **one.environment})
            stack.callback(side.close)
            try:
                sides[one.name] = side.wait()
            except SideError as error:
                missing[one.name] = str(error)
        while True:
            try:
                return take_turns(sides, steps, rounds=rounds), sides, missing
            except SideError as error:
                # The others begin anew without it.
                lost = next(name for name, side in sides.items() if side is error.side)
                missing[lost] = str(error)
                del sides[lost]


HEADER = f"{'side':<28} {'tokens/s':>10} {'ms a step':>10} {'lmjax is':>9} {'memory':>10} {'parameters':>11}"


def line(result: Result) -> str:
    """Returns the row of a side, below :data:`HEADER`."""
    if result.missing is not None:
        return f"{result.side:<28} left out: {result.missing}"
    assert result.tokens_per_second is not None and result.peak_bytes is not None
    compared = "" if result.ratio is None else f"{result.ratio:.2f} x"
    return (
        f"{result.side:<28} {result.tokens_per_second:>10,.0f} {1e3 * statistics.median(result.seconds):>10.1f} "
        f"{compared:>9} {result.peak_bytes / 2**20:>6,.0f} MiB {result.facts.get('parameters', 0) / 1e6:>9.2f}M"
    )
