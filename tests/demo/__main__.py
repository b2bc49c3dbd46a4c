"""`python -m tests.demo [--once]`: exit status 0 when every step held and nothing was left behind."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.demo import live, record, scene, steps
from tests.demo.report import WIDTH, Report
from tests.lab import programs
from tests.lab.errors import LabError
from tests.lab.world import World, missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="exit after the steps instead of staying up")
    parser.add_argument("--record", type=Path, metavar="DIR", help="keep the table and pictures there")
    options = parser.parse_args()
    if reason := missing() or _lacking():
        print(f"make demo: {reason}", file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    try:
        return perform(console, once=options.once, keep=options.record)
    except KeyboardInterrupt:
        return 130
    except LabError as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1


def perform(console: Console, *, once: bool, keep: Path | None = None) -> int:
    """Builds the lab, runs every step, and takes the lab away again."""
    began = time.monotonic()
    with World() as world:
        failed = _play(console, world, once=once, keep=keep)
    took = time.monotonic() - began
    print(f"nothing left behind: no namespace, link, process or file ({took:.0f} s in all)")
    return 1 if failed else 0


def _play(console: Console, world: World, *, once: bool, keep: Path | None) -> int:
    stage = scene.build(world)
    status = ""
    with Report(console) as report:
        for step in steps.story(once=once):
            if step.last and keep is not None:
                status = record.status(stage)
            if not report.run(step, stage) and step.vital:
                break
    if keep is not None:
        record.keep(keep, report.table(), status or record.status(stage))
    if report.failed:
        for daemon in (stage.gateway, *stage.agents):
            if daemon.process is not None:
                print(f"\nlast words of {daemon.process.name}:\n{daemon.process.tail(12)}", file=sys.stderr)
    if not once:
        live.watch(console, stage)
    return report.failed


def _lacking() -> str:
    """A sentence about programs this host lacks; "" when all are there."""
    path = "/usr/sbin:/sbin:/usr/local/sbin"
    packages = sorted(
        {
            package
            for program, package in programs.NEEDED.items()
            if not (shutil.which(program) or shutil.which(program, path=path))
        }
    )
    return f"these packages are missing: {' '.join(packages)}" if packages else ""


if __name__ == "__main__":
    sys.exit(main())
