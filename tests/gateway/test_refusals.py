"""A flood of strangers is counted, and does not fill the log."""

from collections import Counter

import structlog.testing
import trio
import trio.testing

from gateway.refusals import LINES_MAX, WINDOW, Refusals
from raven import log


async def test_each_reason_has_few_lines_and_every_refusal_is_counted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    refused: Counter[str] = Counter()
    with structlog.testing.capture_logs() as lines:
        refusals = Refusals(refused, log.get("agents"))
        for _ in range(1000):
            refusals.turned_away("tls", "192.0.2.1:1", "it does not speak TLS")
        refusals.turned_away("node-unknown", "192.0.2.2:1", "node shop-1 is not registered here")
        assert Counter(line["reason"] for line in lines) == {"tls": LINES_MAX, "node-unknown": 1}
        await trio.sleep(WINDOW)
        refusals.turned_away("tls", "192.0.2.1:1", "it does not speak TLS")
        assert lines[-1]["reason"] == "tls"
    assert refused == {"tls": 1001, "node-unknown": 1}
