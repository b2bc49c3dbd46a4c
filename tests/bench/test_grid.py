"""Several contestants, goals against some of them, and the table."""

from io import StringIO

from rich.console import Console

from bench.grid import OURS, Goal, Line, as_json, contestants, markdown, rendered

RATE = Line(
    what="one stream",
    unit="MiB/s",
    figures={"ssh -R": 200.0, OURS: 300.0},
    goals=[Goal(ratio=1.0, peer="ssh -R"), Goal(ratio=2.0, peer="ssh -R"), Goal(ratio=9, peer="absent")],
)
WAIT = Line(
    what="first byte",
    unit="ms",
    figures={OURS: 0.5, "ssh -R": 40.0, "other": 1.0},
    higher_is_better=False,
    goals=[Goal(ratio=0.7, peer="other"), Goal(ratio=0.4)],
)


def test_a_goal_is_judged_against_its_peer_or_not_at_all() -> None:
    assert [RATE.holds(goal) for goal in RATE.goals] == [True, False, None]
    assert [WAIT.holds(goal) for goal in WAIT.goals] == [True, False]
    assert list(RATE.verdicts()) == [
        "≥ 1 × ssh -R: 1.50 met",
        "≥ 2 × ssh -R: 1.50 MISSED",
        "≥ 9 × absent: not measured",
    ]
    assert list(WAIT.verdicts()) == ["≤ 0.7 × other: 0.50 met", "≤ 0.4: MISSED"]


def test_a_row_we_took_no_part_in_is_not_measured() -> None:
    line = Line(what="x", unit="s", figures={"ssh -R": 1.0}, goals=[Goal(ratio=1.0, peer="ssh -R")])
    assert list(line.verdicts()) == ["≥ 1 × ssh -R: not measured"]


def test_raven_stands_first_and_a_gap_is_shown() -> None:
    assert contestants([RATE, WAIT]) == [OURS, "ssh -R", "other"]
    text = markdown([RATE, WAIT]).splitlines()
    assert text[0] == "| what | Raven | ssh -R | other | wanted |"
    assert text[1] == "|---|--:|--:|--:|---|"
    assert text[2].startswith("| one stream, MiB/s | 300 | 200 | – | ≥ 1 × ssh -R")
    assert text[3].startswith("| first byte, ms | 0.50 | 40.0 | 1.00 |")
    console = Console(file=StringIO(), width=160)
    console.print(rendered([RATE, WAIT], title="t"))
    assert "MISSED" in console.file.getvalue()  # type: ignore[attr-defined]
    assert as_json([RATE])[0]["verdicts"] == list(RATE.verdicts())
