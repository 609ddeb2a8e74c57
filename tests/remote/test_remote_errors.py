"""What an error of object storage means: a mistake of the user (exit code 2), or a fault (exit code 1)."""

import errno
import http.server
import json
import os
import socket
import ssl
import threading

import pytest
from servers import servers  # noqa: F401

from lmjax.cli.errors import describe
from lmjax.data.publish import check_publishable
from lmjax.data.stored import local_folder
from lmjax.remote import answered as answered_before
from lmjax.remote.bucket import Bucket
from lmjax.remote.errors import RemoteError, RemoteMistakeError, remote_error, status_of
from lmjax.remote.lease import leased
from lmjax.train.remote_run import local_run

PLACE = "s3://bucket/run/x"


def raised(name, *bases, module="botocore.exceptions", cause=None, **fields):
    """An error of a package that need not be here."""
    kind = type(name, bases or (Exception,), {"__module__": module, **fields})
    error = kind(f"words of {name}")
    error.__cause__ = cause
    return error


def answered(status, kind=OSError, words="words"):
    """An error as s3fs raises it."""
    response = {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = kind(words)
    error.__cause__ = raised("ClientError", response=response)
    return error


CONNECTION = type("ConnectionError", (Exception,), {"__module__": "botocore.exceptions"})


def unreached(cause):
    return raised(
        "EndpointConnectionError",
        CONNECTION,
        cause=raised("ClientConnectorError", OSError, module="aiohttp", cause=cause),
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (raised("NoCredentialsError"), "log in (AWS_PROFILE"),
        (raised("ProfileNotFound"), "log in (AWS_PROFILE"),
        (raised("InvalidRegionError"), "AWS_DEFAULT_REGION"),
        (raised("ParamValidationError"), "check the address"),
        (raised("ResponseParserError", module="botocore.parsers"), "check the server (AWS_ENDPOINT_URL"),
        (raised("DefaultCredentialsError", module="google.auth.exceptions"), "log in"),
        (raised("RefreshError", module="google.auth.exceptions"), "log in"),
        (raised("HttpError", module="gcsfs.retry", code=401), "refuses this login"),
        (OSError("Forbidden: https://storage\nmay not"), "refuses this login"),
        (raised("ClientResponseError", module="aiohttp", status=403), "refuses this login"),
        (ValueError("Invalid endpoint: x"), "check the server"),
        (answered(403, PermissionError), "refuses this login"),
        (answered(400, lambda words: OSError(errno.EINVAL, words)), "HTTP 400"),
        (answered(301), "HTTP 301"),
        (answered(501), "HTTP 501"),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such bucket or object"),
        (unreached(ConnectionRefusedError(111, "no")), "no such storage answers there: check the server (AWS_ENDPOINT"),
        (unreached(socket.gaierror(socket.EAI_NONAME, "no")), "no such storage answers there"),
        (unreached(ssl.SSLError(1, "WRONG_VERSION_NUMBER")), "no such storage answers there"),
    ],
)
def test_what_the_user_has_to_change_ends_with_2_and_a_remedy(error, words):
    found = remote_error(PLACE, error, has_answered=False)
    assert isinstance(found, RemoteMistakeError)
    message, code = describe(found)
    assert code == 2 and message.startswith(f"{PLACE}: {type(error).__name__}: ") and words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("error", "has_answered"),
    [
        (answered(500), False),
        (answered(503, lambda words: OSError(errno.EBUSY, words)), False),
        (answered(429), False),
        (answered(409), False),
        (raised("HttpError", module="gcsfs.retry", code=502), False),
        (raised("TransportError", module="google.auth.exceptions"), False),
        (raised("ReadTimeoutError", type("HTTPClientError", (Exception,), {})), False),
        (TimeoutError("timed out"), False),
        (unreached(socket.gaierror(socket.EAI_AGAIN, "later")), False),
        (unreached(OSError(errno.ENETUNREACH, "unreachable")), False),
        (unreached(ConnectionResetError("reset")), False),
        # It has answered before.
        (unreached(ConnectionRefusedError(111, "no")), True),
        (unreached(socket.gaierror(socket.EAI_NONAME, "no")), True),
    ],
)
def test_faults_of_network_and_storage_end_with_1(error, has_answered):
    found = remote_error(PLACE, error, has_answered=has_answered)
    message, code = describe(found)
    assert not isinstance(found, ValueError) and code == 1 and "check the network" in message


def test_local_files_keep_their_errors_and_first_contact_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(answered_before, "_here", set())
    bucket = Bucket("memory://first/run")
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "no")

    def fail(error):
        def method(*_, **__):
            raise error

        return method

    with monkeypatch.context() as patch:
        patch.setattr(bucket._files, "cat_file", fail(refused))
        with pytest.raises(RemoteMistakeError):
            bucket.read("x")
    bucket.write("x", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(bucket._files, "cat_file", fail(refused))
        with pytest.raises(RemoteError) as caught:
            bucket.read("x")
        assert not isinstance(caught.value, ValueError)
        patch.setattr(bucket._files, "get_file", fail(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            bucket.download("x", tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        bucket.upload(tmp_path / "absent", "x")


@pytest.fixture
def s3(servers, monkeypatch):  # noqa: F811
    monkeypatch.setattr(answered_before, "_here", set())
    address = servers("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, os.environ[name])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield address
    s3fs.S3FileSystem.clear_instance_cache()


def test_every_use_of_a_bucket_that_does_not_exist_is_a_mistake(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    absent = "s3://absent-bucket/run"
    for use in (
        lambda: leased(Bucket(absent), "is being trained").__enter__(),
        lambda: check_publishable(tmp_path, absent),
        lambda: local_folder(absent),
        lambda: local_run(absent),
    ):
        with pytest.raises(ValueError, match=absent):
            use()
    check_publishable(tmp_path, f"{s3}/elsewhere")


def test_a_login_that_is_missing_or_refused_is_a_mistake(s3, tmp_path, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RemoteMistakeError, match="NoCredentialsError.*log in"):
        Bucket(s3).read("x")
    with http_server(403) as url:
        s3fs.S3FileSystem.clear_instance_cache()
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        with pytest.raises(RemoteMistakeError, match="refuses this login"):
            Bucket(s3).read("x")


class http_server:  # noqa: N801 - used like a function
    """A server that answers everything with one status."""

    def __init__(self, status):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def test_a_status_is_found_in_each_kind_of_error():
    assert status_of(answered(418)) == 418
    assert status_of(raised("HTTPError", response=type("Response", (), {"status_code": 404})())) == 404
    assert status_of(raised("HttpError", code=True)) is None and status_of(json.JSONDecodeError("x", "y", 0)) is None
