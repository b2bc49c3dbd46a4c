"""Families as Prometheus reads them; its own parser is the judge."""

from prometheus_client.parser import text_string_to_metric_families

from raven.metrics import Family, by, renderer, single


def test_a_scrape() -> None:
    counts = {"not-tls": 3}
    render = renderer(
        "gateway",
        lambda: [
            single("tunnels", "Agents connected now.", 2),
            by("reason", "connections_refused", "Turned away.", counts),
            Family(
                "tunnel_bytes", "Bytes.", "counter", ("node", "direction"), {("a", "in"): 5, ("a", "out"): 6}
            ),
        ],
    )
    counts["timeout"] = 1
    families = {family.name: family for family in text_string_to_metric_families(render().decode())}
    assert [sample.value for sample in families["raven_tunnels"].samples] == [2.0]
    turned_away = families["raven_connections_refused"]
    refused = {sample.labels["reason"]: sample.value for sample in turned_away.samples}
    assert refused == {"not-tls": 3.0, "timeout": 1.0}
    assert turned_away.type == "counter"
    assert families["raven_build_info"].samples[0].labels["role"] == "gateway"
    assert families["raven_tunnel_bytes"].samples[1].labels == {"node": "a", "direction": "out"}
    assert "process_resident_memory_bytes" in families
