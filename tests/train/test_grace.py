"""What is said and done about the time between a signal and the kill that follows it."""

import time

import pytest

from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.checkpoint.grace import Grace


def test_a_save_fits_if_it_is_done_before_the_kill():
    grace = Grace(10.0, notify=pytest.fail)
    assert grace.expected() == "there are 10 s" and grace.fits(time.monotonic() - 60)  # Nothing is known of saves.
    grace.saved(6.0)
    assert grace.expected() == "the last save took 6.0 s, there are 10 s"
    assert grace.fits(None) and grace.fits(time.monotonic() - 3) and not grace.fits(time.monotonic() - 5)
    grace.begun_at = time.monotonic() - 4  # Another save is under way, which takes 2 s more.
    assert grace.fits(time.monotonic() - 1) and not grace.fits(time.monotonic() - 3)
    unknown = Grace(None, notify=pytest.fail)
    unknown.saved(1e6)
    assert unknown.fits(time.monotonic() - 1e6) and unknown.expected() == "the last save took 1000000.0 s"


def test_saves_that_are_too_long_are_said_once():
    said = []
    grace = Grace(10.0, notify=said.append)
    for seconds in (9.0, 11.0, 12.0):
        grace.saved(seconds)
    assert len(said) == 1 and "a save takes 11.0 s, and a signal leaves 10 s (checkpoint.grace_seconds)" in said[0]


def test_all_processes_do_what_the_one_with_the_least_time_can(monkeypatch):
    monkeypatch.setattr("lmjax.train.checkpoint.grace.jax.process_count", lambda: 2)
    others = []
    monkeypatch.setattr("lmjax.train.checkpoint.grace.multihost_utils.process_allgather", lambda own: [own, others[-1]])
    grace = Grace(10.0, notify=pytest.fail)
    grace.saved(6.0)
    others.append(0.9)
    assert grace.fits(None)
    others.append(1.1)
    assert not grace.fits(None)


def test_the_launcher_may_say_how_long_it_is(monkeypatch):
    monkeypatch.setenv("LMJAX_GRACE_SECONDS", "300")
    assert Grace(None, notify=print).seconds == 300 and Grace(30.0, notify=print).seconds == 30
    for text in ("soon", "0", "nan", "inf"):
        monkeypatch.setenv("LMJAX_GRACE_SECONDS", text)
        with pytest.raises(ValueError, match=f"LMJAX_GRACE_SECONDS='{text}': must be a number of seconds"):
            Grace(None, notify=print)
    with pytest.raises(ValueError, match="checkpoint.grace_seconds=0: must be above 0"):
        CheckpointConfig(grace_seconds=0)
