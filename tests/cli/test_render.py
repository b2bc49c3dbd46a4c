"""What other hosts have said reaches a terminal as text, never as an order."""

import pytest
from rich.text import Text

from raven.cli import findings, render
from raven.diagnosis.finding import Finding
from raven.terminal import printable

ORDER = "well\x1b]0;owned\x1b\\\x1b[1A\x1b[2K\r\n\x9b2J\u202eok"


@pytest.mark.parametrize("terminal", [False, True])
def test_no_control_character_gets_through(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "is_terminal", lambda: terminal)
    monkeypatch.setenv("TERM", "dumb")
    styled = Text("a ", style="red")
    styled.append(ORDER)
    render.say(ORDER)
    render.say(styled)
    render.print_table(["", "SAID"], [[ORDER, styled]])
    findings.show([Finding(hop="target", result="note", about=ORDER, said=ORDER, next=ORDER)], json=False)
    shown = capsys.readouterr().out
    assert "owned" in shown
    assert not [c for c in shown if not c.isprintable() and c != "\n"]


def test_what_is_text_stays_as_it_is() -> None:
    said = "naïve 日本語 → 0.4 ms (3 s)"
    assert printable(said) == said
    styled = Text("up", style="green")
    styled.append(" x\x1b", style="dim")
    assert render.harmless(styled) is styled
    assert [span.style for span in styled.spans] == ["dim"]
