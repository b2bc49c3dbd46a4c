"""What a renewal needs `cryptography` for, in a process of its own that lives for a moment.

    python -m agent.renew request DIR    makes the next key in DIR and prints a certificate request for it
    python -m agent.renew install DIR    reads the certificate from standard input, puts both in place

Started by `agent.renewal`, which hands down the lock of DIR: the running agent must not pay 10 MB for a
library that it needs twice in two months. Each renewal has a new key, so that a copy of the disk is worth
nothing to a thief once the node has renewed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from raven.errors import PeerError, RavenError
from raven.pki.certificate import check_leaf_untrusted, load_ca_certificate
from raven.pki.csr import key_hash, key_pem, load_key, make_csr, new_key
from raven.pki.identity import Role
from raven.registry import files
from raven.registry.agent_state import read_agent_file, write_agent_file
from raven.registry.renewal_files import finish_renewal, install, pending_key


def request(directory: Path) -> str:
    """A request for the next certificate, the same until it was granted; StateError."""
    finish_renewal(directory)
    node = read_agent_file(directory, now=time.time()).node
    pem = pending_key(directory, lambda: key_pem(new_key(os.urandom)), _is_key)
    return make_csr(load_key(pem), node)


def install_certificate(directory: Path, certificate_pem: str) -> None:
    """Puts the answer to `request` in place; PeerError when it is not one, StateError."""
    content = read_agent_file(directory, now=time.time())
    try:
        ca = load_ca_certificate(files.read(directory / "ca.crt"))
        key = load_key(pending_key(directory, lambda: b"", _is_key))
    except ValueError as error:
        raise PeerError("wrong-certificate", f"there was no request that it answers: {error}") from error
    # Whether it counts now is for the gateway to judge: this machine's clock may be anything.
    leaf = check_leaf_untrusted(certificate_pem, ca, role=Role.NODE, cluster=content.cluster, now=None)
    if leaf.identity.name != content.node or leaf.key_hash != key_hash(key.public_key()):
        raise PeerError("wrong-certificate", f"it is a certificate of {leaf.identity}, not of our key")
    install(directory, leaf.pem)
    floor = max(content.time_floor, leaf.not_before)
    write_agent_file(directory / "agent.json", msgspec.structs.replace(content, time_floor=floor))


def main(arguments: list[str]) -> int:
    """0, or 1 with a sentence on standard error."""
    command, directory = arguments[0], Path(arguments[1])
    try:
        if command == "request":
            sys.stdout.write(request(directory))
        else:
            install_certificate(directory, sys.stdin.read())
    except RavenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _is_key(pem: bytes) -> bool:
    try:
        load_key(pem)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
