"""The documents say what is there: every file they link to exists, and the walks stay short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    missing = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


def test_each_walk_opens_at_most_eight_files_and_finds_what_it_names() -> None:
    text = (ROOT / "docs/walkthrough.md").read_text()
    _, *walks = text.split("\n## ")
    assert len(walks) == 2
    for walk in walks:
        steps = re.findall(r"^\d\. \[([^]]+)\]\([^)]+\)(?:, `([\w.]+)`)?", walk, re.MULTILINE)
        files = [file for file, _ in steps]
        assert 5 <= len(files) == len(set(files)) <= 8
        for file, name in steps:
            assert not name or re.search(rf"\b{name.rpartition('.')[2]}\b", (ROOT / file).read_text())


def test_each_decision_has_a_number_of_its_own() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        title = page.read_text().partition("\n")[0]
        stated = re.match(r"# (\d+)\. ", title)
        assert stated is None or int(stated[1]) == int(page.name[:4]), title
