"""Where the time of profiled steps went: unions of spans, a real trace, and the line for a person."""

import time

import jax
import jax.numpy as jnp
import pytest

from lmjax.train.device_time import busy_seconds, covered
from lmjax.train.profile import where_time_went


def test_overlapping_spans_count_once():
    assert covered([(5, 7), (0, 2), (1, 4), (1, 2)]) == 6
    assert covered([]) == 0


def test_without_a_trace_nothing_is_known(tmp_path):
    assert busy_seconds(tmp_path) is None


def test_a_trace_shows_work_within_the_time_of_its_recording(tmp_path):
    function, x = jax.jit(lambda x: x @ x), jnp.ones((256, 256))
    function(x).block_until_ready()
    jax.profiler.start_trace(str(tmp_path))
    begin = time.perf_counter()
    for _ in range(3):
        function(x).block_until_ready()
    time.sleep(0.3)
    seconds = time.perf_counter() - begin
    jax.profiler.stop_trace()
    busy = busy_seconds(tmp_path)
    assert busy is not None and 0 < busy < seconds - 0.25


LOST = {"compile": 0.5, "data": 0.2, "saving": 0.0, "evaluation": 0.0, "restart": 0.0}


def test_the_host_has_the_rest():
    # Of 2 s: 0.5 compiling, 0.2 waiting for rows, 1.2 working; 0.1 are left, 50 ms for each of 2 steps.
    line = where_time_went(2.0, LOST, 1.2, num_steps=2)
    assert line == (
        "profile: 1000.0 ms a step; stalled 10.0% (data 10.0%), compiling 25.0%, host overhead 5.0% (50.0 ms a step)"
    )


@pytest.mark.parametrize(
    ("busy", "end"), [(5.0, "host overhead 0.0% (0.0 ms a step)"), (None, "host overhead unknown")]
)
def test_work_that_overlaps_or_is_not_known_is_no_overhead(busy, end):
    assert where_time_went(2.0, LOST, busy, num_steps=2).endswith(end)
