"""Every public function says what it computes, by which formula and after whom, and shows it in a line or two."""

import doctest
import pathlib
import re
import sys
import types

import jax
import pytest
from shape_names import watched

DOCS = pathlib.Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_extensions"))

import public_docstrings  # noqa: E402

PUBLIC = [(room, name, thing) for room in public_docstrings.ROOMS for name, thing in public_docstrings.public(room)]
EXAMPLES = [case for case in PUBLIC if case[0] in public_docstrings.WITH_MATHS and not isinstance(case[2], type)]
NUMBER = re.compile(r"-?\d+\.\d*(?:e[+-]?\d+)?")


class NearlyEqual(doctest.OutputChecker):
    """Floating-point numbers may differ in what float32 cannot hold; everything else is compared as text."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        texts = [" ".join(NUMBER.sub("#", text).replace("[ ", "[").split()) for text in (want, got)]
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (want, got)]
        return texts[0] == texts[1] and numbers[1] == pytest.approx(numbers[0], rel=1e-5, abs=1e-6)


@pytest.fixture(autouse=True, scope="module")
def every_compilation_is_kept():
    """Examples compile hundreds of single operations, each in less time than the cache takes notice of."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)


def ids(cases):
    return [f"{room.removeprefix('lmjax.')}.{name}" for room, name, _ in cases]


@pytest.mark.parametrize(("room", "name", "thing"), PUBLIC, ids=ids(PUBLIC))
def test_a_public_docstring_is_whole(room, name, thing):
    assert public_docstrings.problems(name, thing, with_maths=room in public_docstrings.WITH_MATHS) == []


@pytest.mark.parametrize(("room", "name", "thing"), EXAMPLES, ids=ids(EXAMPLES))
def test_an_example_shows_what_it_prints(room, name, thing):
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
    report: list[str] = []
    with watched() as misnamed:
        doctest.DocTestRunner(checker=NearlyEqual()).run(example, out=report.append)
    assert not report, "".join(report)
    assert not misnamed


@pytest.mark.parametrize("name", list(public_docstrings.objectives()))
def test_an_objective_has_a_page_with_formula_and_source(name):
    assert public_docstrings.objective_problems(name, public_docstrings.objective_pages()) == []


def function_with(docstring: str):
    function = types.FunctionType((lambda: None).__code__, {})
    function.__doc__ = docstring
    return function


def test_what_is_missing_is_named():
    whole = "Adds.\n\n``a + b`` (Peano 1889).\n\nExample:\n  >>> 1\n"
    assert public_docstrings.problems("f", function_with(whole), with_maths=True) == []
    for part, missing in (("``a + b``", "formula"), ("Peano 1889", "source"), (">>>", "example")):
        (problem,) = public_docstrings.problems("f", function_with(whole.replace(part, "")), with_maths=True)
        assert problem.startswith(f"f has no {missing}")
    assert public_docstrings.problems("f", function_with(""), with_maths=True) == ["f has no docstring"]
    assert public_docstrings.problems("f", function_with("Adds."), with_maths=False) == []


def test_a_number_may_differ_in_its_last_digit_only():
    check = NearlyEqual().check_output
    assert check("[1.3862944 0.]\n", "[1.3862943 0.]\n", 0)
    assert not check("[1.3862944 0.]\n", "[1.3872944 0.]\n", 0)
    assert not check("[1.3862944 0.]\n", "[1.3862944]\n", 0)
    assert not check("[[1 2]]\n", "[[1 3]]\n", 0)
