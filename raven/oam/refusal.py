"""Every answer the proxy gives in its own name: one table of reasons, and the sentences that need care.

`reason` is a constant word: the header Raven-Error, the verdict of the audit line and the key of a counter. A
sentence says what was wrong and what to do next, and names nothing that the asker did not name itself.
"""

from datetime import UTC, datetime
from typing import Final

from raven.errors import RefusedError
from raven.spans import age

# Statuses as in RFC 9110 section 15, 431 of RFC 6585.
STATUS: Final = {
    "bad-request": 400,  # not HTTP, or not the HTTP that the RFCs allow
    "bad-framing": 400,  # where the body ends could be read in two ways
    "bad-target": 400,  # the request names no target, or two
    "not-permitted": 403,  # the gateway's policy
    "not-allowed": 403,  # the agent's allow list
    "no-such-page": 404,
    "bad-method": 405,  # only GET and HEAD on the gateway's own pages
    "no-identity": 407,  # the policy permits it to some, and the asker has shown nothing
    "bad-credentials": 407,  # an access token that is unknown, expired or revoked
    "head-timeout": 408,
    "body-timeout": 408,
    "head-too-large": 431,
    "too-many": 429,  # one asker has too much open at once
    "registry": 500,
    "unknown-coding": 501,  # a transfer coding other than chunked
    "unknown-node": 502,
    "ambiguous-node": 502,  # several nodes have the address that was asked for
    "unreachable": 502,  # the agent could not connect
    "tunnel-lost": 502,
    "agent-error": 502,  # the agent could not say more
    "no-answer": 502,  # the target closed before it answered
    "bad-kubelet-tls": 502,  # the kubelet did not prove to be the node's
    "bad-answer": 502,  # the target's answer is not HTTP
    "offline-node": 503,
    "reconnecting": 503,  # its tunnel waits for another transport
    "draining": 503,
    "busy": 503,
    "dial-timeout": 504,
    "bad-version": 505,
}


class Refusal(RefusedError):
    """A request ends here, with an answer by the proxy itself."""

    @property
    def status(self) -> int:
        return STATUS[self.reason]


def unknown_node(node: str, port: int) -> Refusal:
    """The name never joined. Which names did is not for everybody to learn by asking."""
    return Refusal(
        "unknown-node",
        f"no node named {node} has joined this gateway; check the name, and for a host behind a node ask for "
        f"{node}.via.NODE:{port} or add the header Raven-Node: NODE",
    )


def offline_node(node: str, since: float | None, now: float) -> Refusal:
    """The node joined and has no tunnel; `since` and `now` are Unix seconds."""
    if since is None:
        return Refusal(
            "offline-node",
            f"node {node} has joined but never connected; start raven-agent on it and look at its log",
        )
    when = datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Refusal(
        "offline-node",
        f"node {node} is offline since {when} ({age(now - since)} ago); check its uplink and its raven-agent",
    )
