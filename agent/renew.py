"""What a renewal needs `cryptography` for, in a process of its own that lives for a moment.

    python -m agent.renew request DIR    makes the next key in DIR and prints a certificate request for it
    python -m agent.renew trust DIR      reads what the gateway says of its CA, believes it if vouched for
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
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from raven.errors import PeerError, RavenError, StateError
from raven.pki.certificate import (
    check_leaf_untrusted,
    check_link_untrusted,
    load_ca_certificate,
    pin_of,
    read_ca_untrusted,
)
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


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway says of its CA."""

    ca_pem: str
    link_pem: str  # the CA's key, signed by the CA before; "" where there is none
    overlap: bool  # the CA before is trusted too


def follow_ca(directory: Path, said: Trust) -> None:
    """Believes the CA if the one we know vouches for it, forgets older ones after the overlap; PeerError.

    The newest CA is never forgotten on a gateway's word, and none is believed without the signature of its
    predecessor: a stolen key of a gateway must not become a CA.
    """
    path = directory / "ca.crt"
    try:
        known = x509.load_pem_x509_certificates(files.read(path))
    except ValueError as error:
        raise StateError(f"{path}: not a CA certificate: {error}") from error
    following = read_ca_untrusted(said.ca_pem)
    check_link_untrusted(said.ca_pem, following, following)
    pins = [pin_of(certificate) for certificate in known]
    if pin_of(following) in pins[1:]:
        return  # a gateway that has not changed yet
    if pin_of(following) != pins[0]:
        check_link_untrusted(said.link_pem, known[0], following)
        known = [following, known[0]]
    else:  # the same key: maybe made anew from a lost file
        known = [following, *(known[1:] if said.overlap else ())]
    files.write(path, b"".join(one.public_bytes(serialization.Encoding.PEM) for one in known))


def main(arguments: list[str]) -> int:
    """0, or 1 with a sentence on standard error."""
    command, directory = arguments[0], Path(arguments[1])
    try:
        if command == "request":
            sys.stdout.write(request(directory))
        elif command == "trust":
            follow_ca(directory, msgspec.json.decode(sys.stdin.read(), type=Trust))
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
