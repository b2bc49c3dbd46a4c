"""The certificate of a gateway that follows another one, and the CA as that one says it is.

Both come over the tunnel to the followed gateway. A CA is believed if the one before vouches for it, as an
agent believes it: who has a gateway's key must not become the CA with it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio
from cryptography import x509

from raven import log
from raven.control.copies import Trusted
from raven.errors import PeerError, RavenError
from raven.pki.certificate import check_leaf_untrusted
from raven.pki.csr import key_hash, make_csr
from raven.pki.identity import Role
from raven.registry.gateway_state import GatewayState
from raven.registry.interface import CertificateRecord

INTERVAL = 3600.0  # seconds between two looks whether it is due
AGAIN = 60.0  # seconds between two tries of what failed


class OwnCertificate:
    """Keeps it young, and of the CA there is now."""

    def __init__(
        self,
        state: GatewayState,
        *,
        ask: Callable[[str], Awaitable[CertificateRecord]],
        renewed: Callable[[], None],
    ) -> None:
        """`ask` has the followed gateway grant a request in PEM, RefusedError; `renewed` is called when
        gateway.crt or the CA was replaced.
        """
        self._state = state
        self._ask = ask
        self._renewed = renewed
        self._said: Trusted | None = None  # and not yet judged
        self._news = trio.Event()
        self._log = log.get("follow")

    def hear(self, said: Trusted) -> None:
        """Called with what the followed gateway says of its CA."""
        self._said = said
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with trio.move_on_after(AGAIN if self._is_due() else INTERVAL):
                await self._news.wait()
            self._news = trio.Event()
            try:
                self._follow_ca()
                if self._is_due():
                    await self._renew()
            except (RavenError, OSError) as error:
                self._log.error("this gateway's certificate was not renewed", why=str(error))

    def _is_due(self) -> bool:
        return time.time() >= self._state.leaf.renew_at or not self._is_current()

    def _is_current(self) -> bool:
        """Whether the CA there is now has signed it."""
        try:
            self._check(self._state.leaf.pem)
        except PeerError:
            return False
        return True

    def _follow_ca(self) -> None:
        said, self._said = self._said, None
        if said is None:
            return
        if self._state.follow_ca(ca_pem=said.ca_pem, link_pem=said.link_pem, overlap=said.overlap):
            self._log.info("took the followed gateway's word on its CA", overlap=said.overlap)
            self._renewed()

    async def _renew(self) -> None:
        key = self._state.load_key(now=time.time())
        record = await self._ask(make_csr(key, self._state.name))
        if self._check(record.pem) != key_hash(key.public_key()):
            raise PeerError("wrong-certificate", "the certificate that came is not of our key")
        self._state.install(record.pem)
        self._renewed()
        self._log.info("renewed this gateway's certificate")

    def _check(self, pem: str) -> bytes:
        """The hash of the key that it certifies as ours; PeerError."""
        state = self._state
        ca = x509.load_pem_x509_certificate(state.ca_pem.encode())
        leaf = check_leaf_untrusted(pem, ca, role=Role.GATEWAY, cluster=state.cluster, now=None)
        if leaf.identity.name != state.name:
            raise PeerError(
                "wrong-certificate", f"a certificate of {leaf.identity} came, not of {state.name}"
            )
        return leaf.key_hash
