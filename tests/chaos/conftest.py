"""How often each kind of misfortune happens; `make chaos` passes these options on."""

import pathlib

import pytest
from storm import Storm


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=100, help="SIGKILLs at random moments (100)")
    parser.addoption("--damages", type=int, default=100, help="damaged files (100)")
    parser.addoption("--signals", type=int, default=20, help="SIGTERMs at random moments (20)")
    parser.addoption("--fuzz", type=int, default=2000, help="commands with random values and damaged files (2000)")
    parser.addoption("--losses", type=int, default=20, help="machines lost during runs in object storage (20)")
    parser.addoption("--steps", type=int, default=10_000, help="steps of the run that must not grow (10000)")
    parser.addoption("--storm-seed", type=int, default=0, help="seed of all random choices (0)")


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """Starts runs, and has an undisturbed one to compare them with."""
    folder: pathlib.Path = tmp_path_factory.mktemp("storm")
    with Storm(folder, seed=request.config.getoption("--storm-seed")) as storm:
        yield storm
