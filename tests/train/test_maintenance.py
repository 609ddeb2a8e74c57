"""Notices of Google Cloud's metadata server, from a server on this machine."""

import http.server
import queue
import threading

import pytest

from lmjax.train.guard import GracefulExit
from lmjax.train.maintenance import HOST_VARIABLE, Notices


@pytest.fixture
def answers(monkeypatch):
    """What a metadata server answers, by the last word of the question."""
    answers = {"maintenance-event": "NONE", "preempted": "FALSE"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            start, _, name = self.path.rpartition("/")
            known = start == "/computeMetadata/v1/instance" and name in answers
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(answers.get(name, "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        monkeypatch.setenv(HOST_VARIABLE, f"127.0.0.1:{server.server_port}")
        yield answers
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "value"), [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")]
)
def test_a_notice_stops_the_run_as_a_signal_does(answers, name, value, capfd):
    graceful = GracefulExit()
    with graceful, Notices(graceful.ask, seconds=0.01) as notices:
        assert not graceful.should_stop(1)
        answers[name] = value
        notices._thread.join(timeout=10)
        assert graceful.should_stop(2) and graceful.signal_name == f"notice of Google Cloud ({name} {value})"
    assert f"({name} {value}): saving after this step" in capfd.readouterr().err


def test_moving_to_another_host_and_faults_of_the_server_stop_nothing(answers):
    told = queue.Queue()
    answers["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    with Notices(told.put, seconds=0.01):
        del answers["preempted"]
        with pytest.raises(queue.Empty):
            told.get(timeout=0.2)
        answers["preempted"] = "TRUE"
        assert "preempted" in told.get(timeout=10)


def test_elsewhere_the_option_is_refused(monkeypatch):
    monkeypatch.setenv(HOST_VARIABLE, "127.0.0.1:9")
    with pytest.raises(ValueError, match="no machine of Google Cloud; set it to False"):
        Notices(print)
