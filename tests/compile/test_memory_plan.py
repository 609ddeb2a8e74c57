"""The compiler's plan for the memory, read from what libtpu writes."""

import pytest

from lmjax.compile.compiled import Memory
from lmjax.compile.memory_plan import PlanError, memory_of

PLAN = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 reduce_sum.9 @0> (size=512,offset=0): bf16[]{:T(256)}
allocation 1: size 2097152, maybe-live-out:
 value: <179 add.24 @0> (size=512,offset=0): s32[]{:T(128)}
allocation 2: size 524288, parameter 0, shape |bf16[4,128,512]| at ShapeIndex {}:
 value: <233 param.5 @0> (size=524288,offset=0): bf16[4,128,512]{2,1,0:T(8,128)(2,1)}
allocation 3: size 262144, parameter 1, shape |bf16[256,512]| at ShapeIndex {}, maybe-live-out:
 value: <228 param.4 @0> (size=262144,offset=0): bf16[256,512]{1,0:T(8,128)(2,1)}
allocation 4: size 1024, constant:
 value: <225 constant.60.clone @0> (size=512,offset=0): s32[]{:T(128)}
allocation 5: size 4096, preallocated-temp:
 value: <188 while.3 @0> (size=512,offset=0): (s32[], f32[8])
allocation 6: size 7340032, color 1, preallocated-temp:
 value: <187 copy.33 @1> (size=262144,offset=3407872): bf16[256,512]{1,0:T(8,128)(2,1)S(1)}
allocation 7: size 8192, color 4, preallocated-temp:
 value: <186 send.1 @4> (size=8192,offset=0): s32[2]{0:S(5)}
"""


def test_what_lies_in_main_memory_is_counted_once():
    # A result that takes the place of an argument is an argument.
    assert memory_of(PLAN) == Memory(arguments=524288 + 262144, temporaries=4096, other=2097152 + 1024)


def test_a_plan_in_another_form_is_refused():
    with pytest.raises(PlanError, match="leave out --plan"):
        memory_of("Buffers: none")
