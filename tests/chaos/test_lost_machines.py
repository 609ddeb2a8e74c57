"""Runs in object storage whose machine is lost at a random moment: process and local folder are gone."""

import collections
import re
import shutil
import signal

import pytest
from servers import servers  # noqa: F401
from storm import Storm
from test_chaos import check_like_the_calm_run, figures

from lmjax.remote.bucket import Bucket
from lmjax.train.checkpoint.manifest import visible_steps

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def storage(servers):  # noqa: F811
    """The address of a bucket on an S3 server of this machine; processes that start later know the server."""
    return servers("s3")


@pytest.fixture(scope="module")
def cloud_storm(storage, tmp_path_factory, request):
    with Storm(tmp_path_factory.mktemp("storm"), seed=request.config.getoption("--storm-seed")) as storm:
        yield storm


def test_a_lost_machine_loses_no_step_before_the_last_visible_save(cloud_storm, storage, request):
    storm, counts, left, place = cloud_storm, collections.Counter(), request.config.getoption("--losses"), None
    while left:
        place = place or storm.new_place()
        address = f"{storage}/{place.name}"
        options = ("--folder", address, "--local-folder", "run")
        process = storm.begin(place, *options)
        kind = storm.wait_for_moment(place, process)
        storm.send(process, signal.SIGKILL)
        killed = storm.end(process) == -signal.SIGKILL
        saved = max(visible_steps(Bucket(address).sizes()), default=0)
        if killed:
            left -= 1
            counts[f"at {kind}"] += 1
            shutil.rmtree(place / "run", ignore_errors=True)
        before = len(storm.output(place))
        if left == 0 or not killed or storm.random.random() < 0.5:
            assert storm.finish(place, *options) == 0, storm.output(place)
            gone_on = re.search(r"continuing after step (\d+) of", storm.output(place)[before:])
            assert (int(gone_on[1]) if gone_on else 0) == (saved if saved < 24 else 24), storm.output(place)[before:]
            check_like_the_calm_run(storm, place)
            counts["runs finished, bit-equal"] += 1
            shutil.rmtree(place)
            place = None
    figures("lost machines", counts)
