"""Sentences for the log, held against every call of a logger: none is missing, none is left over."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from raven.cli.sentences import SENTENCES, fields_of, sentence_for
from raven.log import Recent

LEVELS = {"info", "warning", "error", "exception", "critical"}
LOGGERS = ("log", "logger", ".get_logger", ".get")  # how the expression that is called ends, arguments aside
SOURCES = [
    path
    for package in ("gateway", "agent", "raven")
    for path in sorted(Path(package).rglob("*.py"))
    if "dataplane" not in path.parts  # another process, with the standard library's log
]


class Line(NamedTuple):
    """What one call of a logger writes."""

    event: str
    sure: frozenset[str]  # details that every line has
    perhaps: frozenset[str]  # details that some lines have
    open: bool  # whether there may be others: `**details`
    where: str


def _is_logger(node: ast.expr) -> bool:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node).endswith(LOGGERS)


def _texts(node: ast.expr) -> list[str]:
    """The literals that an expression may be."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp():
            return [*_texts(node.body), *_texts(node.orelse)]
    return []


def _may_be_none(node: ast.expr) -> bool:
    """Whether it is written as `x or None` or the like: None is no detail."""
    return any(isinstance(part, ast.Constant) and part.value is None for part in ast.walk(node))


def _lines(source: str, name: str) -> Iterator[Line]:
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in LEVELS and _is_logger(node.value):
            assert id(node) in called, (
                f"{name}:{node.lineno} hands a logger's method on: it cannot be followed"
            )
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in LEVELS or not _is_logger(node.func.value):
            continue
        where = f"{name}:{node.lineno}"
        assert node.args, f"{where} logs nothing"
        texts = _texts(node.args[0])
        assert texts, f"{where} logs what is no literal"
        named = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
        perhaps = frozenset(key for key, value in named.items() if _may_be_none(value))
        is_open = len(named) < len(node.keywords)
        for text in texts:
            yield Line(text, frozenset(named) - perhaps, perhaps, is_open, where)


LINES = [line for path in SOURCES for line in _lines(path.read_text(), str(path))]


def test_the_walk_sees_what_the_daemons_write() -> None:
    source = """
self._log.info("a" if x else "b", node=n, why=w or None, **more)
log.get("area").warning("c")
structlog.get_logger(area="pages").exception("d")
logger.debug("e")
click.echo("f")
error.info("g")
"""
    found = {line.event: line for line in _lines(source, "x.py")}
    assert found.keys() == {"a", "b", "c", "d"}
    b = found["b"]
    assert (set(b.sure), set(b.perhaps), b.open) == ({"node"}, {"why"}, True)
    for bad in ("self._log.info(how)", "tell = self._log.info"):
        with pytest.raises(AssertionError, match=r"x\.py:1"):
            list(_lines(bad, "x.py"))
    assert len(LINES) > 100


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.where}-{line.event}")
def test_each_line_has_a_sentence_or_is_left_out(line: Line) -> None:
    if line.event in Recent.LEFT_OUT:
        assert line.event not in SENTENCES
        return
    least = dict.fromkeys(line.sure, "x")
    assert line.event in SENTENCES, (
        f"{line.where}: {line.event!r} has neither a sentence nor a place on the list"
    )
    assert sentence_for(line.event, least) is not None, (
        f"{line.where}: no sentence does with {set(line.sure)}"
    )


@pytest.mark.parametrize("event", SENTENCES)
def test_each_sentence_has_a_line(event: str) -> None:
    callers = [line for line in LINES if line.event == event]
    assert callers, f"nobody logs {event!r} any more"
    for template in SENTENCES[event]:
        fields = set(fields_of(template))
        assert any(line.open or fields <= line.sure | line.perhaps for line in callers), (
            f"nobody says {template!r}"
        )


@pytest.mark.parametrize("event", Recent.LEFT_OUT)
def test_each_event_that_is_left_out_has_a_line(event: str) -> None:
    assert any(line.event == event for line in LINES), f"nobody logs {event!r} any more"


@pytest.mark.parametrize(
    ("event", "details", "said"),
    [
        ("cut off", {"node": "shop-1", "reason": "removed", "why": "it was removed"}, "it was removed"),
        ("cut off", {"node": "shop-1", "reason": "certificate-expired"}, "certificate-expired"),
        ("packets go through gateway", {"gateway": "gw-2", "before": ""}, "gateway gw-2"),
        ("packets go through gateway", {"gateway": "gw-2", "before": "gw-1"}, "through gw-1 before"),
        ("way of the packets", {"endpoint": "192.0.2.1:4500"}, "packets go by UDP, to 192.0.2.1:4500"),
        ("way of the packets", {"endpoint": "127.0.0.1:5", "problem": "no UDP passes"}, "no UDP passes"),
        ("draining", {"seconds": "5"}, "began to drain, for at most 5 s"),
        ("draining", {"tunnels": "0", "seconds": "5"}, "began to drain 0 tunnels, for at most 5 s"),
    ],
)
def test_the_fullest_sentence_is_said(event: str, details: Mapping[str, str], said: str) -> None:
    sentence = sentence_for(event, details)
    assert sentence is not None
    assert sentence.endswith(said)
