"""`make bench`: every figure beside what a user would pick instead, measured in the same run.

python -m bench [--rounds N] [--only streams,agents,packets,storm] [--json] [--write]
"""

import argparse
import datetime
import importlib
import json
import sys
from pathlib import Path

from rich.console import Console

from bench.table import Row, as_json, machine, markdown, rendered
from tests.demo.record import README, replace_block
from tests.lab.errors import LabError
from tests.lab.world import missing

MODULES = ("streams", "agents", "packets")
LONG = ("storm",)  # minutes of two whole cores; only where it is asked for
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures Raven beside its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are shown")
    parser.add_argument("--only", default=",".join(MODULES), help="comma list of %(default)s,storm")
    parser.add_argument("--json", action="store_true", help="rows as JSON on standard output")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/results/DATE.md")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := [name for name in chosen if name not in MODULES + LONG]:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(MODULES + LONG)}")
    if reason := missing():
        print(f"make bench: {reason}", file=sys.stderr)
        return 2
    where = machine()
    rows: list[Row] = []
    failed = False
    for name in chosen:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            rows += importlib.import_module(f"bench.{name}").measure(options.rounds)
        except (LabError, OSError) as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            failed = True
        except KeyboardInterrupt:
            return 130
    if options.json:
        print(json.dumps({"machine": where, "rows": as_json(rows)}, indent=2))
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=120)
        console.print(rendered(rows, title=f"Raven, medians of {options.rounds} interleaved rounds"))
        print(where)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        text = f"# {today}\n\n{where}\n\n{markdown(rows)}"
        (RESULTS / f"{today}.md").write_text(text)
        replace_block(README, "bench", f"{where}:\n\n{markdown(rows)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
