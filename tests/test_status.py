"""Snapshots that say no more than their evidence."""

import msgspec
import pytest

from raven.status import EVIDENCE_MAX_AGE, Lane, judged, node_status


@pytest.mark.parametrize(
    ("state", "age", "expected"),
    [
        ("up", 0.0, "up"),
        ("up", EVIDENCE_MAX_AGE - 0.1, "up"),
        ("up", EVIDENCE_MAX_AGE, "stale"),
        ("up", 70.0, "stale"),
        ("up", None, "starting"),
        ("down", 1.0, "down"),
        ("off", None, "off"),
    ],
)
def test_a_state_is_no_better_than_its_evidence(state: str, age: float | None, expected: str) -> None:
    lane = msgspec.convert({"state": state, "evidence_age_s": age}, Lane)
    assert judged(lane).state == expected


def test_a_node_heard_70_seconds_ago_is_not_connected() -> None:
    for age, connected in ((3.0, True), (70.0, False)):
        node = node_status(
            "shop-1",
            stream=Lane(state="up", evidence_age_s=age, rtt_ms=1.0),
            packets=Lane(state="up", evidence_age_s=age),
            last_seen_s=age,
            pod_cidrs=[],
        )
        assert node.connected is connected
        assert node.stream_lane == node.packet_lane == ("up" if connected else "stale")
        assert node.rtt_ms == (1.0 if connected else None)
        assert node.last_seen_s == age
    assert "70 s" in node.stream.detail
