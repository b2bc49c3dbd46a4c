"""docs/threat-model.md and docs/promises.md: every test they name exists, and every claim names one."""

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


def test_every_claim_of_the_threat_model_names_a_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| cannot ")
    ]
    assert len(rows) > 30
    assert [row for row in rows if not _TEST.search(row)] == []
