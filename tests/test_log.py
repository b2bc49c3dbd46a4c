"""Log lines: their two shapes, and that no secret survives either."""

import io
import json
import subprocess
import sys
import time

import pytest

from raven import log

TOKEN = "raven1.AbCdEfGh.c2VjcmV0LXNlY3JldC1zZWNyZXQ.cGlu"
ACCESS = "ravenop1.AbCdEfGh.YWNjZXNzLWFjY2Vzcy1hY2Nlc3M"


def _lines(format: log.Format, level: log.Level = "info") -> io.StringIO:
    out = io.StringIO()
    log.configure(level=level, format=format, stream=out)
    return out


def test_json_elsewhere_than_on_a_terminal() -> None:
    out = _lines("auto")
    log.get("area").info("node connected", node="shop-1")
    line = json.loads(out.getvalue())
    assert line["event"] == "node connected"
    assert (line["area"], line["node"], line["level"]) == ("area", "shop-1", "info")
    assert line["timestamp"].endswith("Z")


def test_text_for_people() -> None:
    out = _lines("text")
    log.get("area").warning("no tunnel", problem="refused")
    assert "no tunnel" in out.getvalue()
    assert "problem=refused" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_level() -> None:
    out = _lines("json", "warning")
    log.get("area").info("quiet")
    log.get("area").error("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_the_newest_lines_are_kept_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    _lines("json", "info")
    log.recent.clear()
    log.get("tunnels").info("node connected", node="shop-1", token="t0ps3cret", why=None)
    log.get("audit").info("request", node="shop-1")
    log.get("tunnels").debug("unheard")
    (line,) = log.recent.lines()
    assert (line.level, line.area, line.what) == ("info", "tunnels", "node connected")
    assert line.details == {"node": "shop-1", "token": "hidden"}
    for number in range(1000):
        log.get("tunnels").info("turned away", why=str(number))
    first, *strangers = log.recent.lines()
    assert first == line, "a flood pushes nothing out but itself"
    newest = range(1000 - log.Recent.STRANGERS_MAX, 1000)
    assert [one.details["why"] for one in strangers] == [str(number) for number in newest]
    log.recent.clear()
    log.get("audit").error("audit not written", why="no space left")
    assert [line.what for line in log.recent.lines()] == ["audit not written"], "no request's line"
    log.recent.clear()
    for why in ("disk full", "disk full", "locked", "disk full", "locked"):
        log.get("agents").error("registry", why=why)
        log.get("tunnels").warning("disconnected", why=why)
    kept = [(line.what, line.details["why"]) for line in log.recent.lines()]
    assert [why for what, why in kept if what == "registry"] == ["disk full", "locked"]
    assert len([why for what, why in kept if what == "disconnected"]) == 5, "each happened by itself"
    later = time.time() + 2 * log.Recent.ERROR_EVERY
    log.get("agents").info("registry again")
    log.get("agents").error("registry", why="disk full")
    assert log.recent.lines()[-1].what == "registry", "it was over in between"
    monkeypatch.setattr("raven.log.time.time", lambda: later)
    log.get("agents").error("registry", why="disk full")
    assert [line.what for line in log.recent.lines()[-2:]] == ["registry"] * 2, "it goes on"
    monkeypatch.undo()
    log.recent.clear()
    for number in range(log.Recent.LINES_MAX + 1):
        log.get("tunnels").warning("packets stopped", why=f"{number:4}" * 1000)
    lines = log.recent.lines()
    assert len(lines) == log.Recent.LINES_MAX
    assert {line.what for line in lines} == {"packets stopped"}
    assert {len(line.details["why"]) for line in lines} == {log.Recent.VALUE_MAX}


@pytest.mark.parametrize("asker", ["cert:alice@example.com at 192.0.2.1:5", "token:ci@edge at unix pid 7"])
def test_who_asked_is_written(asker: str) -> None:
    out = _lines("json")
    log.get("audit").info("request", asker=asker)
    assert json.loads(out.getvalue())["asker"] == asker


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_secret_is_written(format: log.Format) -> None:
    out = _lines(format)
    logger = log.get("area")
    logger.info(f"joining with {TOKEN}", token="t0ps3cret", why=f"bad token {TOKEN}")
    logger.info(f"{ACCESS} is unknown", why="http://proxy:3128 is not http://me:pr0xypw@proxy:3128")
    logger.info("no URL: me:pr0xypw@proxy:3128, http://me:pr0xy@pr0xypw@proxy")
    logger.info("x", error=ValueError(TOKEN), private_key="t0ps3cret", Authorization="t0ps3cret")
    try:
        raise RuntimeError(TOKEN)
    except RuntimeError:
        logger.exception("fault")
    for secret in (TOKEN, "c2VjcmV0", "t0ps3cret", ACCESS, "YWNjZXNz", "pr0xypw"):
        assert secret not in out.getvalue()
    assert "http://proxy:3128 is not http://hidden@proxy:3128" in out.getvalue()
    assert "fault" in out.getvalue()


def test_a_daemon_does_not_load_rich() -> None:
    code = "import sys; from raven import log; sys.exit(any(name.startswith('rich') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "from raven import log; import rich.table"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
