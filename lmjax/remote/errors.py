"""What an error of object storage means: something for the user to change, or a fault of network or storage.

Each storage has error classes of its own, and raises them through others. What counts is whether the request was sent
at all, whether somebody answered, and with which HTTP status. So it needs none of their packages:

- A request that could not be made (no login, a profile or a region that does not exist) is the user's to mend.
- So is one that was refused with a 4xx status (login, bucket, object, region), apart from those that say "try again".
- A server that was never reached (:mod:`lmjax.remote.answered`), whose name is unknown, that does not listen, or that
  speaks another protocol, is probably not the one that was meant. If it has answered before, it is a fault of the
  network.
- Everything else is a fault.
"""

import errno
import socket
import ssl
from collections.abc import Iterator

TRY_AGAIN = (408, 409, 412, 425, 429)
"""4xx statuses that do not say that the request is wrong."""
NOT_IMPLEMENTED = 501
"""What a web server says that is no storage."""
_LOGIN_WORDS = ("Credential", "Token", "Profile", "SSO", "Auth", "Login", "Refresh")
_SENT = {"ConnectionError", "HTTPClientError", "ClientError", "IncompleteReadError"}
"""The classes of botocore for requests that were sent, or could not be because of the network."""
_UNKNOWN_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_LOG_IN = {
    "s3": "log in (AWS_PROFILE, ~/.aws, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    "gs": "log in (gcloud auth application-default login)",
    "gcs": "log in (gcloud auth application-default login)",
    "hf": "log in (hf auth login, or HF_TOKEN)",
}
_SERVER = {
    "s3": "AWS_ENDPOINT_URL, which is unset for AWS itself, and AWS_DEFAULT_REGION",
    "gs": "STORAGE_EMULATOR_HOST, which is unset for Google Cloud itself",
}


class RemoteError(RuntimeError):
    """The storage fails, or cannot be reached."""


class RemoteMistakeError(RemoteError, ValueError):
    """The storage cannot be used as it was named: address, login, server or region are to be changed."""


def remote_error(place: str, error: Exception, *, has_answered: bool) -> RemoteError:
    """Returns the error for a person about what a storage has raised.

    Args:
      place: the address of the object.
      error: what was raised.
      has_answered: whether the storage has answered before, see :mod:`lmjax.remote.answered`.

    Returns:
      A :class:`RemoteMistakeError` if the user has to change something; else a :class:`RemoteError`.
    """
    scheme = place.partition(":")[0]
    told = f"{place}: {_told(error)}"
    log_in = _LOG_IN.get(scheme, "log in as this storage wants it")
    server = f"check the server ({_SERVER[scheme]})" if scheme in _SERVER else "check the server"
    status = status_of(error)
    if status in (401, 403):
        return RemoteMistakeError(f"{told}: the storage refuses this login: {log_in} as somebody who may do this there")
    if status == 404:
        return RemoteMistakeError(f"{told}: there is no such bucket or object: correct the address, or {server}")
    if status is not None and ((300 <= status < 500 and status not in TRY_AGAIN) or status == NOT_IMPLEMENTED):
        return RemoteMistakeError(
            f"{told}: the request was refused (HTTP {status}): {server}, check the address, or {log_in}"
        )
    if status is None and (reason := _not_sent(error)) is not None:
        return RemoteMistakeError(f"{told}: " + (log_in if reason == "login" else f"{server}, and check the address"))
    if status is None and not has_answered and _is_wrong_server(error):
        return RemoteMistakeError(f"{told}: no such storage answers there: {server}")
    return RemoteError(f"{told}: check the network; the storage may be out of order. The same command tries again")


def is_local(error: Exception) -> bool:
    """Returns whether an error is one of the local file system: it names its file, or there is no room."""
    return isinstance(error, OSError) and (
        error.errno in _NO_ROOM or (error.errno is not None and error.filename is not None)
    )


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status that a storage has answered with; None if it is not known."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # requests and httpx; aiohttp; gcsfs; azure
            names = ("status_code", "status", "code")
            found = next((value for name in names if isinstance(value := getattr(one, name, None), int)), None)
            found = getattr(response, "status_code", found)
        if isinstance(found, int) and 300 <= found < 600:
            return found
    if isinstance(error, FileNotFoundError):
        return 404
    # gcsfs has no class for it.
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and str(error).startswith("Forbidden")):
        return 403
    return None


def _not_sent(error: BaseException) -> str | None:
    """Returns what a request could not be made with, ``"login"`` or ``"request"``; None if it was made."""
    for one in (error, error.__cause__):
        kind, names = type(one), {base.__name__ for base in type(one).__mro__}
        if kind.__module__.startswith("google.auth") and "TransportError" not in names:
            return "login"
        if kind.__module__.startswith("botocore.exceptions") and not names & _SENT:
            return "login" if any(word in kind.__name__ for word in _LOGIN_WORDS) else "request"
    # A malformed address of a server; an answer that is not that of a storage.
    return "request" if isinstance(error, ValueError) or type(error).__name__ == "ResponseParserError" else None


def _is_wrong_server(error: BaseException) -> bool:
    return any(
        isinstance(one, ConnectionRefusedError | ssl.SSLError)
        or (isinstance(one, socket.gaierror) and one.errno in _UNKNOWN_NAME)
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and those that it was raised from, at most eight."""
    one: BaseException | None = error
    for _ in range(8):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _told(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:300].rstrip(".:")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
