"""What can go wrong between us and an API server, as one error with a reason that code can branch on.

Nothing above `raven.kube.client` sees an httpx exception or an HTTP status: this module turns both into a
KubeError whose sentence names the request and, where the operator can mend it, how.
"""

from __future__ import annotations

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
    why = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in why:  # httpx has no error of its own for it
        detail = why.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or why
        return KubeError("untrusted", f"{what}: {server} shows a certificate we do not believe: {detail}")
    if isinstance(error, httpx.TimeoutException):
        why = "no answer in time"
    return KubeError("unreachable", f"{what}: {server} is out of reach: {why}")


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
