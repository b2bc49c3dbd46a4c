"""`raven-gateway ca`: another certificate authority in place of this one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from gateway.commands.output import done, failing_in_one_line, output_option, state_dir_option


@click.group()
def ca() -> None:
    """The cluster's certificate authority."""


@ca.command("rotate")
@state_dir_option
@output_option
def rotate_ca(state_dir: Path, output: str) -> None:
    """Make a new CA, which the gateway takes and trusts beside the one before.

    A gateway that runs takes it within 2 seconds, another one at its next start. Agents learn it over their
    tunnels and renew under it; those that come within 90 days lose nothing. Tokens made before are for the CA
    before, and stop working.
    """
    from gateway.admin.ca import rotate
    from raven.pki.token import pin_text

    with failing_in_one_line():
        pin = pin_text(rotate(state_dir, now=time.time(), random=os.urandom))
    done(output, {"pin": pin}, f"the gateway takes the new CA, with pin {pin}, at once or at its next start")


@ca.command("retire")
@state_dir_option
@output_option
def retire_ca(state_dir: Path, output: str) -> None:
    """End the overlap: only the current CA is trusted, at once or from the gateway's next start.

    Nodes that have not come back since `ca rotate` have to join again.
    """
    from gateway.admin.ca import retire

    with failing_in_one_line():
        retire(state_dir, now=time.time())
    done(output, {"retired": True}, "the gateway forgets the CA before at once or at its next start")
