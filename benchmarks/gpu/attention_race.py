"""Attention of packed and of whole causal rows: ours beside torch's FlexAttention and SDPA, in ms and TFLOP/s.

Both libraries are processes that take turns. FLOPs are those of the pairs that the mask shows, two products forward and
five backward. A ratio says how many times as fast our best backend is.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import statistics
import sys
from typing import get_args

from attention_case import Case
from report import add
from turns import Side, SideError, ratio

from lmjax.kernels.attention.dispatch import Backend

PART = "speed of attention"
HERE = pathlib.Path(__file__).parent
SIDES = {
    "lmjax": [name for name in get_args(Backend) if name not in ("auto", "tpu")],
    "torch": ["flex", "sdpa"],
}
"""Backends of each side."""
TURN = 0.2
"""Seconds of a turn."""
DENSE_UP_TO = 4096
"""Our dense backend is measured up to this length: beyond it, its logits take the memory."""


def cases(tiny: bool) -> list[Case]:
    """Shapes of all cases, the most telling first; the backend is filled in later."""
    if tiny:
        small = {"rows": 1, "heads": 4, "kv_heads": 2, "width": 16, "backend": ""}
        return [Case(length=64, documents=d, backward=True, **small) for d in (4, 1)]
    return [
        Case(backend="", length=length, rows=16_384 // length, documents=documents, backward=backward)
        for backward in (True, False)
        for documents in (4, 1)
        for length in (4096, 8192)
    ]


def measure(shape: Case, sides: dict[str, Side], *, rounds: int, output: str) -> None:
    """Adds the figures of all backends for one shape."""
    runs = {
        (name, backend): dataclasses.replace(shape, backend=backend)
        for name in sides
        for backend in SIDES[name]
        if backend != "xla" or shape.length <= DENSE_UP_TO
    }
    kind = "packed" if shape.documents > 1 else "causal"
    case = f"{kind} {shape.rows} x {shape.length}, {'with' if shape.backward else 'no'} gradients"
    seconds: dict[tuple[str, str], list[float]] = {}
    for (name, backend), run in list(runs.items()):
        try:
            sides[name].seconds(dataclasses.asdict(run))  # compiles
            # Slow ones are called less often: part of what they take is known by then.
            repeat = round(min(max(TURN / sides[name].seconds(dataclasses.asdict(run)), 1), 20))
            runs[name, backend] = dataclasses.replace(run, repeat=repeat)
            seconds[name, backend] = []
        except SideError as error:
            add(output, part=PART, case=case, side=f"{name} {backend}", missing=str(error)[:160])
    for _ in range(rounds):
        for (name, backend), values in seconds.items():
            run = runs[name, backend]
            values.append(sides[name].seconds(dataclasses.asdict(run)) / run.repeat)
    own = [values for (name, _), values in seconds.items() if name == "lmjax"]
    best = min(own, key=statistics.median, default=None)
    for (name, backend), values in seconds.items():
        compared = None if best is None or name == "lmjax" else ratio(values, best)
        milliseconds = 1e3 * statistics.median(values)
        rate = shape.flops / milliseconds / 1e9
        add(output, part=PART, case=case, side=f"{name} {backend}", ms=milliseconds, tflops=rate, lmjax_is=compared)


def main() -> None:
    """Measures all cases that there is time for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    commands = {
        "lmjax": ([sys.executable, str(HERE / "attention_lmjax.py")], {}),
        "torch": (
            [options.torch_python, str(HERE / "attention_torch.py")],
            {"PYTHONPATH": f"{HERE}:{HERE.parent}"},
        ),
    }
    with contextlib.ExitStack() as stack:
        started = {name: Side(command, environment) for name, (command, environment) in commands.items()}
        sides = {}
        for name, side in started.items():
            stack.callback(side.close)
            try:
                sides[name] = side.wait()
                print(f"{name}: {side.facts}")
            except SideError as error:
                add(options.output, part=PART, case="all", side=name, missing=str(error)[:160])
        for shape in cases(options.tiny) if sides else []:
            measure(shape, sides, rounds=1 if options.tiny else 5, output=options.output)
    raise SystemExit(0 if "lmjax" in sides else 1)


if __name__ == "__main__":
    main()
