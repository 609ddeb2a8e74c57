"""The benchmarks are scripts, which import each other from their own folders."""

import pathlib
import sys

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"

# At the end, so that no script hides a module of that name.
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "gpu")]
