"""docs/threat-model.md and docs/promises.md: every test they name exists, and every claim names one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [page for name in ("threat-model", "promises") if (page := ROOT / "docs" / f"{name}.md").exists()]
_TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = _TEST.findall(page.read_text())
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists()
        or not re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_bench_row_that_is_named_exists() -> None:
    page = (ROOT / "docs" / "promises.md").read_text()
    named = [
        name
        for cell in re.findall(r"bench rows? ((?:`[^`]+`(?:, )?)+)", page)
        for name in re.findall(r"`([^`]+)`", cell)
        if not name.startswith("tests/")
    ]
    assert len(named) > 10
    rows = [
        _pattern(node)
        for path in (ROOT / "bench").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    assert [name for name in named if not any(re.fullmatch(row, name) for row in rows)] == []


def _pattern(node: ast.JoinedStr | ast.Constant) -> str:
    """What a literal matches: itself, with anything where a word or number is filled in."""
    if isinstance(node, ast.Constant):
        return re.escape(node.value) if isinstance(node.value, str) else "(?!)"
    parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
    if not any(isinstance(part, str) and len(part) > 5 for part in parts):
        return "(?!)"  # nothing but names put together
    return "".join(".+" if part is None else re.escape(str(part)) for part in parts)


def test_every_claim_of_the_threat_model_names_a_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| cannot ")
    ]
    assert len(rows) > 30
    assert [row for row in rows if not _TEST.search(row)] == []
