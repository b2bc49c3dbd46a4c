"""Who becomes active: a table of cases, and properties that hold for any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.topology.election import DOWN_AFTER, Health, elect

UP, DOWN, JUST_DOWN = Health(True, 100), Health(False, DOWN_AFTER), Health(False, DOWN_AFTER - 1)


def winners(
    spec: str,
    *,
    ready: str = "abcd",
    incumbents: str = "",
    health: Mapping[str, Health] | None = None,
    replicas: int = 1,
) -> str:
    chosen = elect(
        [(node, None) for node in spec],
        ready=set(ready),
        incumbents=list(incumbents),
        health=health or {},
        replicas=replicas,
    )
    return "".join(node for node, _ in chosen)


@pytest.mark.parametrize(
    ("expected", "case"),
    [
        ("a", winners("abc")),
        ("ab", winners("abc", replicas=2)),
        ("abc", winners("abc", replicas=9)),
        ("", winners("abc", replicas=0)),
        ("", winners("abc", replicas=-1)),
        ("", winners("")),
        ("b", winners("abc", ready="b")),
        ("", winners("abc", ready="")),
        ("b", winners("abc", incumbents="b")),  # it stays though a is first
        ("ba", winners("abc", incumbents="b", replicas=2)),
        ("a", winners("abc", ready="ac", incumbents="b")),  # it went
        ("a", winners("abc", incumbents="x")),  # it is no longer in the specification
        ("a", winners("abc", incumbents="b", health={"b": DOWN})),
        ("b", winners("abc", incumbents="b", health={"b": JUST_DOWN})),  # a reconnect is no failover
        ("b", winners("abc", incumbents="b", health={"b": UP, "a": UP})),
        ("b", winners("abc", health={"a": DOWN})),
        ("b", winners("abc", incumbents="b", health={"a": DOWN, "b": DOWN, "c": DOWN})),
        ("cb", winners("abc", incumbents="b", health={"a": DOWN, "b": DOWN}, replicas=2)),
        ("a", winners("aab", replicas=1)),
        ("ab", winners("aab", replicas=2)),  # one node is one replica
    ],
)
def test_cases(expected: str, case: str) -> None:
    assert case == expected


def test_a_candidate_brings_what_belongs_to_it() -> None:
    assert elect([("a", 1), ("a", 2)], ready={"a"}, incumbents=[], health={}, replicas=2) == [("a", 1)]


nodes = st.lists(st.sampled_from("abcdef"), max_size=8)


@given(spec=nodes, ready=nodes, incumbents=nodes, down=nodes, replicas=st.integers(0, 7))
def test_whatever_the_case(
    spec: Sequence[str], ready: Sequence[str], incumbents: Sequence[str], down: Sequence[str], replicas: int
) -> None:
    health = dict.fromkeys(down, DOWN)
    first = elect(
        [(node, None) for node in spec], ready=ready, incumbents=incumbents, health=health, replicas=replicas
    )
    names = [node for node, _ in first]
    qualified = set(spec) & set(ready)
    assert set(names) <= qualified
    assert len(names) == len(set(names)) == min(replicas, len(qualified))
    # Nothing changes when nothing has changed.
    again = elect(
        [(node, None) for node in spec], ready=ready, incumbents=names, health=health, replicas=replicas
    )
    assert {node for node, _ in again} == set(names)
    # Nobody who is down is chosen while somebody who is not is left out.
    left = qualified - set(names)
    assert not (set(names) & set(down)) or left <= set(down)
