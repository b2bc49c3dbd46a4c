"""docs/diagnosis.md: its table of hops is the code's."""

import re
from pathlib import Path

from raven.diagnosis.finding import HOPS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text()


def test_every_hop_stands_there_in_order() -> None:
    table = DOCUMENT.partition("<!-- hops of raven.diagnosis.finding -->")[2].partition(
        "<!-- end of hops -->"
    )[0]
    assert tuple(re.findall(r"^\| `(\w+)` \| .+ \|$", table, re.MULTILINE)) == HOPS
