"""What other hosts have said reaches a terminal as text, in tables, JSON, logs and errors alike."""

import io
import json

import pytest

from gateway.commands.output import print_json, print_table
from raven import log
from raven.errors import RefusedError
from raven.net.daemon import fail
from raven.terminal import UNPRINTABLE, json_text, printable, printable_lines

ORDER = "well\x1b]0;owned\x07\r\n\x9b2J\x7f\u202eok \U000e0041"
PLAIN = "naïve 日本語 → 0.4 ms (3 s) 🙂"


def _is_text(shown: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in shown) and "owned" in shown


def test_printable() -> None:
    assert printable(PLAIN) == PLAIN
    assert _is_text(printable(ORDER))
    assert "\n" not in printable(ORDER)
    assert printable("\x1b[1A") == f"{UNPRINTABLE}[1A"
    assert printable_lines("one\ntwo\x1b") == f"one\ntwo{UNPRINTABLE}"


@pytest.mark.parametrize("said", [ORDER, PLAIN, "", "\x00\x1f\x7f\x80\x9f\u2028\ufeff"])
def test_json_means_the_same_to_whoever_reads_it(said: str) -> None:
    shown = json_text({"said": [said]})
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert json.loads(shown) == {"said": [said]}


def test_tables_and_json_of_the_gateways_commands(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "SOFTWARE"), [("shop-1", ORDER), ("shop-2", "")])
    assert _is_text(table := capsys.readouterr().out)
    assert len(table.splitlines()) == 3
    print_json({"software": ORDER})
    assert _is_text(capsys.readouterr().out)


def test_errors_of_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("raven-agent", RefusedError("token-unknown", ORDER))
    assert _is_text(capsys.readouterr().err)


def test_the_log_for_people() -> None:
    out = io.StringIO()
    log.configure(format="text", stream=out)
    log.get("area").info("node connected", software=ORDER, names=[ORDER])
    assert _is_text(out.getvalue())
    assert len(out.getvalue().splitlines()) == 1
    try:
        raise ValueError("\x1b[2Jowned")
    except ValueError:
        log.get("area").exception("a fault")
    assert _is_text(out.getvalue())
    assert "Traceback" in out.getvalue()
    assert len(out.getvalue().splitlines()) > 3
