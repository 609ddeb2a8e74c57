"""The reference values the losses are held to."""

import json

import pytest


@pytest.fixture
def oracle(golden):
    """``oracle(kind)``: the cases of that kind, computed with torch in float32."""
    cases = json.loads((golden / "losses.json").read_text())["cases"]

    def of_kind(kind):
        found = [case for case in cases if case["kind"] == kind]
        assert found, kind
        return found

    return of_kind
