"""Reading a small program that libtpu made: tests/golden/hlo."""

import numpy as np
import pytest

from lmjax.compile.hlo import array_sizes, num_bytes, parse
from lmjax.compile.parts import part_of, source_of
from lmjax.compile.replica_groups import axes_of, groups_of
from lmjax.compile.uses import trip_count, uses

MESH = {"x": 4, "y": 2}


@pytest.fixture(scope="module")
def program(golden):
    return parse((golden / "hlo" / "scan_v5e_2x4.txt").read_text())


def test_cycles_count_as_often_as_their_loop_runs(program):
    loops = [use.instruction for use in uses(program) if use.instruction.opcode == "while"]
    assert [trip_count(program, loop) for loop in loops] == [6, 6]
    forward = 3511 + 1826 + 8596 + 16480 + 15377 + 17448 + 8596
    backward = 3511 + 12636 + 8596 + 12636
    entry = 1826 + 8596 + 69232 + 6336
    assert sum((use.instruction.cycles or 0) * use.times for use in uses(program)) == 6 * (forward + backward) + entry


def test_an_instruction_names_its_operands_its_line_and_its_part(program):
    product = next(use.instruction for use in uses(program) if use.instruction.name == "fusion.21")
    assert product.operands == ("get-tuple-element.297", "all-gather.30")
    assert product.op_name == "jit(g)/jvp()/while/body/closed_call/dot_general"
    stack = program.stack(product.frame)
    assert [(frame.function, frame.line) for frame in stack] == [
        ("FeedForward.__call__", 23), ("g", 24), ("g", 24), ("g", 24), ("<module>", 25)
    ]  # fmt: skip
    assert source_of(stack) == "models/layers.py:23 FeedForward.__call__"
    assert part_of(stack) == "feed-forward"
    assert part_of(stack[1:]) == "other"


def loop(condition: str, body: str = "", attributes: str = "") -> str:
    """A program of one loop, whose counter is element 0."""
    return f"""HloModule m

%cond (p: (s32[], f32[8])) -> pred[] {{
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
{condition}
}}

%body (q: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %q = (s32[], f32[8]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %x = f32[8] get-tuple-element(%q), index=1
{body}
  ROOT %next = (s32[], f32[8]) tuple(%grown, %x)
}}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %a = (s32[], f32[8]) parameter(0)
  ROOT %w = (s32[], f32[8]) while(%a), condition=%cond, body=%body{attributes}
}}
"""


@pytest.mark.parametrize(
    ("condition", "body", "attributes", "count"),
    [
        ("  %n = s32[] constant(5)\n  ROOT %c = pred[] compare(%i, %n), direction=LT", "", "", 5),
        ("  %n = s32[] constant(5)\n  ROOT %c = pred[] compare(%i, %n), direction=LE", "", "", 6),
        (
            "  %n = s32[] constant(10)\n  ROOT %c = pred[] compare(%i, %n), direction=LT",
            "  %two = s32[] constant(2)\n  %grown = s32[] add(%j, %two)",
            "",
            5,
        ),
        ("  ROOT %c = pred[] compare(%i, %i), direction=LT", "", "", None),
        ("", "", ', backend_config={"known_trip_count":{"n":"7"}}', 7),
    ],
    ids=["below", "to", "in steps of two", "a bound that is computed", "said by the compiler"],
)
def test_how_often_a_loop_runs(condition, body, attributes, count):
    found = parse(loop(condition, body, attributes))
    (one,) = [use.instruction for use in uses(found) if use.instruction.opcode == "while"]
    assert trip_count(found, one) == count


def test_the_dearest_branch_of_a_condition_counts():
    text = """HloModule m

%a (p: f32[]) -> f32[] {
  ROOT %x = f32[] negate(%p), backend_config={"estimated_cycles":"3"}
}

%b (p: f32[]) -> f32[] {
  ROOT %y = f32[] sine(%p), backend_config={"estimated_cycles":"40"}
}

ENTRY %main (i: s32[], p: f32[]) -> f32[] {
  ROOT %c = f32[] conditional(%i, %p, %p), branch_computations={%a, %b}
}
"""
    assert sum(use.instruction.cycles or 0 for use in uses(parse(text))) == 40


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="not the text of an HLO program"):
        parse("nothing")


def test_bytes_of_shapes():
    assert array_sizes("(bf16[1,512]{1,0:T(8,128)(2,1)S(1)}, s32[])") == [("bf16", (1, 512)), ("s32", ())]
    assert num_bytes("(bf16[1,512]{1,0:T(8,128)(2,1)S(1)}, s32[])") == 1024 + 4
    assert num_bytes("pred[4,4]") == 16
    assert num_bytes("f8e4m3fn[16]") == 16


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups={}", [list(range(8))]),
        ("channel_id=1", [list(range(8))]),
        ("replica_groups=[4,2]<=[8]", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", [[0, 2, 4, 6, 1, 3, 5, 7]]),
        # ids 0 2 4 6 | 1 3 5 7 in a mesh of 2 x 1 x 4, joined along the last.
        ("replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'c'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        # The outer half of an axis of 4 beside its inner half.
        ("replica_groups=mesh['a'=4,'b'=2] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_replica_groups(text, groups):
    found = groups_of(text, 8)
    assert {frozenset(group) for group in found.tolist()} == {frozenset(group) for group in groups}


def test_a_group_lies_along_axes_of_the_mesh():
    assert axes_of(np.array([0, 2, 4, 6]), MESH) == ("x",)
    assert axes_of(np.array([0, 1]), MESH) == ("y",)
    assert axes_of(np.arange(8), MESH) == ("x", "y")
    with pytest.raises(ValueError, match="unknown way"):
        groups_of("replica_groups=new_form", 8)
