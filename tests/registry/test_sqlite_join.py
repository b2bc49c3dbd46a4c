"""Joins in the registry: what a token is good for, once, however many try."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raven.errors import RefusedError
from raven.pki.renewal import LEAF_LIFE
from raven.registry.interface import CertificateRecord, Registry
from raven.registry.sqlite import SqliteRegistry
from tests.registry.records import KEY, NOW, SECRET, WG, enrol, issuing, token


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SqliteRegistry]:
    with contextlib.closing(SqliteRegistry(tmp_path / "registry.sqlite", now=NOW)) as opened:
        yield opened


def refusal(registry: Registry, node: str, serial: str = "FF", **given: object) -> str:
    before = (registry.nodes(), registry.tokens(), registry.certificates(node))
    with pytest.raises(RefusedError) as caught:
        enrol(registry, node, serial, **given)  # type: ignore[arg-type]
    assert (registry.nodes(), registry.tokens(), registry.certificates(node)) == before
    return caught.value.reason


def test_a_node_joins_by_token(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    certificate = enrol(registry, "shop-1", "0A")
    assert certificate == issuing("0A")("shop-1")
    node = registry.node("shop-1")
    assert node is not None
    assert (node.created, node.last_seen, node.public_key, node.certificate_serial) == (NOW, None, None, "0A")
    assert registry.nodes() == [node]
    assert registry.certificates("shop-1") == [certificate]
    assert [(t.uses, t.used, t.used_by) for t in registry.tokens()] == [(1, NOW, "shop-1")]
    assert [(a.event, a.node, a.asker, a.target, a.verdict) for a in registry.audit()] == [
        ("join", "shop-1", "192.0.2.7:1", "tok", "allowed")
    ]


def test_each_refusal_has_its_word_and_changes_nothing(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    registry.add_token(token("old", expires=NOW))
    registry.add_token(token("bound", node="shop-9"))
    registry.add_token(token("many", reusable=True))
    assert refusal(registry, "shop-1", token_id="none") == "token-unknown"
    assert refusal(registry, "shop-1", secret=b"x" * 24) == "token-unknown"
    assert refusal(registry, "shop-1", secret=b"") == "token-unknown"
    assert refusal(registry, "shop-1", token_id="old") == "token-expired"
    assert refusal(registry, "shop-1", token_id="bound") == "token-node"
    enrol(registry, "shop-1", "0A")
    assert refusal(registry, "shop-2") == "token-used"
    assert refusal(registry, "shop-1", key_hash=b"o" * 32) == "token-used"
    assert refusal(registry, "shop-1", token_id="many") == "node-taken"
    # Whoever guesses an id does not learn whether the token behind it has expired or been used.
    assert refusal(registry, "shop-2", secret=b"x" * 24) == "token-unknown"
    assert refusal(registry, "shop-2", token_id="old", secret=b"x" * 24) == "token-unknown"


def test_a_reusable_token_serves_many_nodes(registry: SqliteRegistry) -> None:
    registry.add_token(token(reusable=True))
    for number in range(3):
        enrol(registry, f"shop-{number}", f"0{number}", key_hash=bytes([number]) * 32)
    assert [node.name for node in registry.nodes()] == ["shop-0", "shop-1", "shop-2"]
    assert registry.tokens()[0].uses == 3


def test_a_token_made_for_a_node_lets_it_join_again(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    enrol(registry, "shop-1", "0A")
    registry.record_hello("shop-1", public_key=WG, pod_cidrs=["10.1.0.0/24"], software="x", now=NOW + 1)
    registry.add_token(token("again", node="shop-1"))
    enrol(registry, "shop-1", "0B", token_id="again", key_hash=b"n" * 32, now=NOW + 5)
    node = registry.node("shop-1")
    assert node is not None
    assert (node.certificate_serial, node.created, node.public_key) == ("0B", NOW, WG)
    assert [(c.serial, c.revoked) for c in registry.certificates("shop-1")] == [("0B", None), ("0A", NOW + 5)]
    assert refusal(registry, "shop-1", token_id="again", now=NOW + 6) == "token-used"


def test_a_join_whose_answer_was_lost_is_answered_again(registry: SqliteRegistry) -> None:
    registry.add_token(token())
    first = enrol(registry, "shop-1", "0A")
    assert enrol(registry, "shop-1", "0B", now=NOW + 60) == first
    assert registry.tokens()[0].uses == 1
    # Neither after the token's end, nor once the certificate is old, nor when the node was removed.
    assert refusal(registry, "shop-1", now=NOW + 3600) == "token-expired"
    registry.remove_node("shop-1", now=NOW + 61)
    assert refusal(registry, "shop-1", now=NOW + 62) == "token-used"


def test_an_old_certificate_is_not_handed_out_again(registry: SqliteRegistry) -> None:
    registry.add_token(token(node="shop-1", reusable=True, expires=NOW + LEAF_LIFE))
    enrol(registry, "shop-1", "0A")
    assert enrol(registry, "shop-1", "0B", now=NOW + LEAF_LIFE * 0.6).serial == "0A"
    assert enrol(registry, "shop-1", "0B", now=NOW + LEAF_LIFE * 0.7).serial == "0B"


def test_an_issuer_that_fails_spends_no_token(registry: SqliteRegistry) -> None:
    def issue(node: str) -> CertificateRecord:
        raise ZeroDivisionError

    registry.add_token(token())
    with pytest.raises(ZeroDivisionError):
        registry.enrol(token_id="tok", secret=SECRET, node="a", key_hash=KEY, now=NOW, issue=issue)
    assert registry.nodes() == []
    assert enrol(registry, "a", "0A").serial == "0A"


RACER = """
import json, pathlib, sys
sys.path.insert(0, {root!r})
from raven.errors import RefusedError
from raven.registry.sqlite import SqliteRegistry
from tests.registry.records import enrol
registry = SqliteRegistry(pathlib.Path(sys.argv[1]), now=0)
print("ready", flush=True)
sys.stdin.readline()
won, lost = [], []
for number in range(30):
    try:
        letter = sys.argv[2]
        node, serial = f"shop-{{letter.lower()}}-{{number}}", f"{{letter}}{{number:02}}"
        enrol(registry, node, serial, token_id=f"t{{number}}", key_hash=letter.encode() * 32)
    except RefusedError as error:
        lost.append(error.reason)
    else:
        won.append(number)
print(json.dumps([won, lost]))
"""


def test_two_processes_cannot_redeem_one_token(registry: SqliteRegistry, tmp_path: Path) -> None:
    for number in range(30):
        registry.add_token(token(f"t{number}"))
    root = str(Path(__file__).parents[2])
    path = tmp_path / "registry.sqlite"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER.format(root=root), str(path), letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for letter in "AB"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [json.loads(racer.communicate(timeout=30)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(results[0][0] + results[1][0]) == list(range(30))
    assert results[0][1] + results[1][1] == ["token-used"] * 30
    assert [t.uses for t in registry.tokens()] == [1] * 30
    assert len(registry.nodes()) == 30
