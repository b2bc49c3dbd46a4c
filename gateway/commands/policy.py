"""`raven-gateway policy`: who may ask for what, checked before a gateway reads it."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.commands.output import done, failing_in_one_line, output_option


@click.group()
def policy() -> None:
    """Who may reach which target of which node."""


@policy.command(epilog="Exit codes: 0 when the file is good, 2 when it is not.")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@output_option
def check(file: Path, output: str) -> None:
    """Check a policy file before a gateway reads it: one line for each problem, with its place."""
    from gateway.oam.policy_file import read_policy

    with failing_in_one_line():
        permits = len(read_policy(file).permits)
    done(output, {"ok": True, "permits": permits}, f"{file}: {permits} permits")


@policy.command()
def default() -> None:
    """Print the policy that is in force without a file; a good begin for one."""
    from raven.oam.permits import DEFAULT_POLICY

    click.echo(DEFAULT_POLICY, nl=False)
