"""`raven-gateway audit`: whether what is written down of the requests is whole."""

import click

from raven.registry.verify_command import verify_command


@click.group()
def audit() -> None:
    """Who asked for what, and what came of it."""


audit.add_command(verify_command("raven-gateway"))
