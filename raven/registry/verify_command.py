"""The command `audit verify`, one for `raven-gateway` and `ravenctl`: does the audit's chain hold?

Works on the state directory, whether its gateway runs or not, and writes nothing.
"""

import sys
import time
from pathlib import Path

import click

from raven.errors import RavenError
from raven.places import STATE_DIRECTORY
from raven.terminal import json_text, printable, printable_lines


def verify_command(program: str) -> click.Command:
    """The command, as a subcommand of `program`."""

    @click.command(
        "verify",
        epilog="Exit codes: 0 when all hangs together, 1 when the chain is broken, 2 when it cannot be read.",
    )
    @click.option(
        "--state-dir",
        type=click.Path(path_type=Path, readable=False),
        default=STATE_DIRECTORY,
        show_default=True,
        metavar="DIR",
        help="The gateway's state directory; the gateway may be running.",
    )
    @click.option(
        "--seen",
        metavar="LINE:HASH",
        help="A head noted earlier, as the gateway logs it; it must still be there.",
    )
    @click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="For people, or for programs.",
    )
    def verify(state_dir: Path, seen: str | None, output: str) -> None:
        """Check that no line of the audit was changed, removed or slipped in.

        Each line carries the hash of the one before. Whoever may write to the registry's file could forge the
        whole chain; --seen finds that out, with a head from a log that is kept elsewhere.
        """
        from raven.registry.audit_log import parse_head
        from raven.registry.sqlite import open_existing

        try:
            head = None if seen is None else parse_head(seen)
            with open_existing(state_dir / "registry.sqlite", now=time.time()) as registry:
                verdict = registry.verify_audit(seen=head)
        except RavenError as error:
            click.echo(f"{program}: {printable_lines(str(error))}", err=True)
            sys.exit(2)
        if output == "json":
            told = {
                "ok": not verdict.problem,
                "problem": verdict.problem,
                "lines": verdict.lines,
                "head": str(verdict.head),
            }
            click.echo(json_text(told))
        else:
            click.echo(f"{verdict.lines} lines hang together; the head is {verdict.head}")
        if verdict.problem:
            problem = printable(verdict.problem)
            click.echo(f"{program}: the audit is not what was written: {problem}", err=True)
            sys.exit(1)

    return verify
