"""What a daemon knows about itself, as values, and the Unix socket over which it says so.

One request a line, one answer a line, JSON; `ravenctl` is the reader. A state never travels without the age
of the evidence for it. Whoever may open the socket may read it all, so no secret belongs into a snapshot.
"""

from __future__ import annotations

from typing import Literal

import msgspec

# The words of a lane, worst last. docs/operations.md explains each.
LaneState = Literal["up", "starting", "stale", "down", "off"]

EVIDENCE_MAX_AGE = 35.0  # seconds; an idle tunnel is probed every 20 s, and one lost probe must not alarm


class Lane(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One lane to one node (or gateway): a state, and how old the proof of it is."""

    state: LaneState
    evidence_age_s: float | None = None  # seconds since the last answered probe; None: never one
    rtt_ms: float | None = None  # of that probe
    detail: str = ""  # a sentence: why it is not up
    bytes_in: int = 0
    bytes_out: int = 0
    handshake_age_s: float | None = None  # packet lane: since the last WireGuard handshake


def judged(lane: Lane) -> Lane:
    """The lane, made "stale" when its evidence is too old to say "up"."""
    if lane.state != "up":
        return lane
    if lane.evidence_age_s is None:
        return msgspec.structs.replace(lane, state="starting", detail=lane.detail or "no probe answered yet")
    if lane.evidence_age_s < EVIDENCE_MAX_AGE:
        return lane
    return msgspec.structs.replace(
        lane,
        state="stale",
        detail=lane.detail or f"the last answered probe is {lane.evidence_age_s:.0f} s old",
    )
