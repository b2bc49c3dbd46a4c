"""What can go wrong between us and an API server, as one error with a reason that code can branch on.

Nothing above `raven.kube.client` sees an httpx exception or an HTTP status: this module turns both into a
KubeError whose sentence names the request and, where the operator can mend it, how.
"""

from __future__ import annotations

import ssl
from typing import Literal

import httpx
import msgspec

from raven.errors import RavenError

Reason = Literal[
    "unreachable",  # no connection, or it broke: what was asked may or may not have happened
    "untrusted",  # whoever answers shows a certificate that our CA did not sign, or one for another name
    "unauthorized",  # the API server does not know who we are
    "forbidden",  # it does, and RBAC or an admission plugin says no
    "not-found",
    "exists",
    "conflict",  # somebody else wrote the object since we read it
    "gone",  # the resource version is too old to go on from: list again
    "invalid",  # it will be refused again however often it is sent
    "throttled",
    "failed",  # the API server's own fault
    "unreadable",  # an answer that is not what the API promises
]
_REASONS: dict[int, Reason] = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "invalid",
    409: "conflict",
    410: "gone",
    413: "invalid",
    415: "invalid",
    422: "invalid",
    429: "throttled",
}
_DEPTH_MAX = 10  # errors inside one another
_SHOWN_MAX = 500  # characters of the API server's own message in ours


class KubeError(RavenError):
    """A request to the API server did not do what was asked."""

    def __init__(self, reason: Reason, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.retry_after = retry_after  # seconds, where the API server asked for a pause


class _Status(msgspec.Struct):
    """The body of a refusal, as far as it helps."""

    message: str = ""
    reason: str = ""
    code: int = 0


def refusal(what: str, status: int, body: bytes, headers: httpx.Headers | None = None) -> KubeError:
    """The error for an answer of `status` to `what`, such as "list nodes"."""
    said = _read_status(body)
    reason: Reason = _REASONS.get(status, "failed" if status >= 500 else "invalid")
    if said.reason == "AlreadyExists":
        reason = "exists"
    elif said.reason == "Expired":
        reason = "gone"
    told = said.message[:_SHOWN_MAX] or f"HTTP status {status}"
    sentence = f"{what}: {told}"
    if reason == "forbidden":
        sentence = f"{what}: not allowed; does the role of this ServiceAccount have the verb? ({told})"
    elif reason == "unauthorized":
        sentence = f"{what}: the API server does not accept our token or certificate ({told})"
    return KubeError(reason, sentence, retry_after=_retry_after(headers))


def watch_refusal(what: str, body: bytes) -> KubeError:
    """The error for an ERROR event inside a watch, whose object is a status."""
    return refusal(what, _read_status(body).code or 500, body)


def unreachable(what: str, server: str, error: Exception) -> KubeError:
    """The error for a connection that failed or broke; to be raised `from error`."""
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        why = root.verify_message or str(root)
        return KubeError("untrusted", f"{what}: {server} shows a certificate we do not believe: {why}")
    why = root.strerror if isinstance(root, OSError) and root.strerror else str(root)
    if isinstance(error, httpx.TimeoutException):
        why = "no answer in time"
    return KubeError("unreachable", f"{what}: {server} is out of reach: {why or type(root).__name__}")


def _root(error: BaseException) -> BaseException:
    """What began it: httpx, httpcore, anyio and trio each wrap it, and not all of them keep its words."""
    for _ in range(_DEPTH_MAX):
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):  # one for each address of a name
            inner = error.exceptions[0]
        if inner is None:
            break
        error = inner
    return error


def unreadable(what: str, error: Exception) -> KubeError:
    return KubeError("unreadable", f"{what}: an answer that is no Kubernetes object: {error}")


def _read_status(body: bytes) -> _Status:
    try:
        return msgspec.json.decode(body, type=_Status)
    except msgspec.DecodeError:
        return _Status(message=body[:_SHOWN_MAX].decode("utf-8", "replace").strip())


def _retry_after(headers: httpx.Headers | None) -> float | None:
    """Seconds; the API server sends a number, never a date."""
    text = headers.get("retry-after", "") if headers is not None else ""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
