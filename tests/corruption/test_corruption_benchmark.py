"""The benchmark of corruptions leaves none out."""

import importlib.util
import pathlib

PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "corruption.py"


def test_every_function_is_measured_or_said_to_be_part_of_one_that_is():
    spec = importlib.util.spec_from_file_location("corruption_benchmark", PATH)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    assert benchmark.unmeasured() == set(), "add it to functions(), or to PARTS, in benchmarks/corruption.py"
