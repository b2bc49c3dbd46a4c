"""The verdict, over findings in any order."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from raven.diagnosis.finding import HOPS, Finding, Result, decide, in_order

findings = st.builds(
    Finding,
    hop=st.sampled_from(HOPS),
    result=st.sampled_from(["ok", "note", "unknown", "broken"]),
    about=st.sampled_from(["", "a", "b"]),
    said=st.just("it is so"),
    next=st.just("do this"),
)


def finding(hop: str, result: Result, said: str = "it is so") -> Finding:
    return msgspec.convert({"hop": hop, "result": result, "said": said, "next": "do this"}, Finding)


def test_nothing_found_is_nothing_wrong() -> None:
    verdict = decide([])
    assert (verdict.well, verdict.exit_code, verdict.hop) == (True, 0, None)


def test_notes_and_unknowns_break_nothing() -> None:
    verdict = decide([finding("tun", "note"), finding("udp", "unknown"), finding("tcp", "ok")])
    assert (verdict.well, verdict.exit_code, verdict.unknown) == (True, 0, 1)


def test_the_cause_comes_before_its_consequences() -> None:
    """However they were found: no tunnel without TCP, no TCP without a name."""
    verdict = decide([finding("tunnel", "broken"), finding("tcp", "broken"), finding("name", "broken", "no")])
    assert (verdict.hop, verdict.why, verdict.next) == ("name", "no", "do this")
    assert (verdict.broken, verdict.exit_code) == (3, 1)


@given(st.lists(findings))
def test_against_the_obvious(found: list[Finding]) -> None:
    verdict = decide(found)
    broken = [f for hop in HOPS for f in found if f.hop == hop and f.result == "broken"]
    assert verdict.well == (not broken)
    assert verdict.broken == len(broken)
    if broken:
        assert (verdict.hop, verdict.about) == (broken[0].hop, broken[0].about)
    assert sorted(map(str, in_order(found))) == sorted(map(str, found))
