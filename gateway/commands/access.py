"""`raven-gateway access`: what O&M clients prove their names with."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gateway.commands.output import done, failing_in_one_line, listed, moment, output_option, state_dir_option

ttl_option = click.option(
    "--ttl", default="90d", show_default=True, metavar="TIME", help="How long it is good: 15m, 8h, 90d."
)


@click.group()
def access() -> None:
    """What O&M clients prove their names with: access tokens and certificates."""


@access.command()
@click.argument("name")
@state_dir_option
@ttl_option
def token(name: str, state_dir: Path, ttl: str) -> None:
    """Print a new access token, and nothing else; policies call its holder token:NAME.

    It is a secret. It goes into Proxy-Authorization: as a bearer token, or as the password of Basic, as in
    curl -x http://NAME:TOKEN@GATEWAY:10264.
    """
    from gateway.admin.access import create_access_token
    from gateway.admin.token import parse_ttl

    with failing_in_one_line():
        text = create_access_token(state_dir, name, ttl=parse_ttl(ttl), now=time.time())
    click.echo(text)


@access.command()
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where to put NAME.key, NAME.crt and ca.crt; made if it is not there.",
)
@state_dir_option
@ttl_option
@output_option
def certificate(name: str, out: Path, state_dir: Path, ttl: str, output: str) -> None:
    """Make a client certificate for the TLS entry; policies call its holder operator:NAME."""
    from gateway.admin.access import create_certificate
    from gateway.admin.token import parse_ttl

    with failing_in_one_line():
        made = create_certificate(state_dir, name, out=out, ttl=parse_ttl(ttl), now=time.time())
    names = [str(path) for path in made]
    done(output, {"name": f"operator:{name}", "files": names}, "\n".join(names))


@access.command("list")
@state_dir_option
@output_option
def list_credentials(state_dir: Path, output: str) -> None:
    """Show what was given out, newest first; never a secret."""
    from gateway.admin import access

    with failing_in_one_line():
        entries = access.list_credentials(state_dir, now=time.time())
    listed(
        output,
        entries,
        ("ID", "NAME", "STATE", "CREATED", "EXPIRES"),
        lambda e: (e.id, e.name, e.state, moment(e.created), moment(e.expires)),
    )


@access.command()
@click.argument("credential_id", metavar="ID")
@state_dir_option
@output_option
def revoke(credential_id: str, state_dir: Path, output: str) -> None:
    """Take a token or certificate back; a running gateway ends its requests within 2 seconds."""
    from gateway.admin.access import revoke_credential

    with failing_in_one_line():
        name = revoke_credential(state_dir, credential_id, now=time.time())
    done(output, {"id": credential_id, "revoked": True}, f"{credential_id} of {name} is revoked")
