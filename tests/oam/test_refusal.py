"""The proxy's own answers: a status for each reason, and sentences that say what to do next."""

from raven.oam.refusal import STATUS, Refusal, offline_node, unknown_node


def test_every_reason_is_a_header_value_and_an_error_status() -> None:
    for reason, status in STATUS.items():
        assert reason.replace("-", "").isascii()
        assert reason.replace("-", "").isalpha()
        assert 400 <= status < 600
        assert Refusal(reason, "why").status == status


def test_an_unknown_node_is_named_with_the_way_to_hosts_behind_nodes() -> None:
    refusal = unknown_node("10.0.0.7", 502)
    assert refusal.status == 502
    assert "10.0.0.7 has joined" in str(refusal)
    assert "10.0.0.7.via.NODE:502" in str(refusal)


def test_an_offline_node_has_a_time_and_an_age() -> None:
    refusal = offline_node("edge1", 1_700_000_000.9, 1_700_000_042.0)
    assert refusal.status == 503
    assert "node edge1 is offline since 2023-11-14T22:13:20Z (41 s ago)" in str(refusal)
    assert "never connected" in str(offline_node("edge1", None, 0.0))
