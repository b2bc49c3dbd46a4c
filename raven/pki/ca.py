"""The cluster's certificate authority: the certificates it makes.

ECDSA P-256, one level: the CA signs leaves and nothing else. The clock and the randomness of keys and
serial numbers are arguments; the nonces inside signatures come from OpenSSL. Names come from whoever
accepted them, never from a request.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from raven.pki.certificate import USES_OF_ROLE, Leaf, leaf_of_untrusted, load_ca_certificate, pin_of
from raven.pki.csr import UNUSABLE, Key, PublicKey, key_hash
from raven.pki.identity import Identity, gateway_identity, node_identity, operator_identity
from raven.pki.renewal import BACKDATE, CA_LIFE, LEAF_LIFE

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign."""

    cluster: str
    certificate: x509.Certificate
    key: Key = field(repr=False)

    @classmethod
    def create(cls, cluster: str, key: Key, *, now: float, random: Random) -> Self:
        """A CA for `cluster` that begins now; made again with the same key it has the same pin."""
        return cls(cluster, _ca_certificate(cluster, key.public_key(), key, now, random), key)

    @classmethod
    def load(cls, cluster: str, certificate_pem: bytes, key: Key) -> Self:
        """A CA made earlier; ValueError when the two do not belong together or to `cluster`."""
        certificate = load_ca_certificate(certificate_pem)
        if key_hash(key.public_key()) != pin_of(certificate):
            raise ValueError("the CA's key and certificate do not belong together")
        if certificate.subject != _ca_name(cluster):
            raise ValueError(f"the CA certificate is not of cluster {cluster}")
        return cls(cluster, certificate, key)

    @property
    def pin(self) -> bytes:
        return pin_of(self.certificate)

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def issued(self, leaf: Leaf) -> bool:
        """Whether this CA signed `leaf`."""
        try:
            x509.load_pem_x509_certificate(leaf.pem.encode("ascii")).verify_directly_issued_by(
                self.certificate
            )
        except UNUSABLE:
            return False
        return True

    def vouch_for(self, following: "Authority", *, now: float, random: Random) -> str:
        """The link by which those who know this CA believe the `following` one: its key, signed by ours."""
        assert following.cluster == self.cluster
        link = _ca_certificate(self.cluster, following.key.public_key(), self.key, now, random)
        return link.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def issue_node(self, name: str, key: PublicKey, *, now: float, random: Random) -> Leaf:
        """A certificate with which the holder of `key` can dial gateways as node `name`."""
        return self._issue(node_identity(self.cluster, name), key, (), now, random)

    def issue_gateway(
        self, name: str, key: PublicKey, *, hosts: Sequence[str], now: float, random: Random
    ) -> Leaf:
        """A certificate with which the holder of `key` can be dialled as gateway `name` at `hosts`.

        ValueError when a host is neither an address nor an ASCII name.
        """
        return self._issue(gateway_identity(self.cluster, name), key, hosts, now, random)

    def issue_operator(self, name: str, key: PublicKey, *, life: float, now: float, random: Random) -> Leaf:
        """A certificate with which the holder of `key` can ask at O&M entries as `name` for `life` s."""
        return self._issue(operator_identity(self.cluster, name), key, (), now, random, life)

    def _issue(
        self,
        identity: Identity,
        key: PublicKey,
        hosts: Sequence[str],
        now: float,
        random: Random,
        life: float = LEAF_LIFE,
    ) -> Leaf:
        names = [x509.UniformResourceIdentifier(identity.uri), *map(_host_name, hosts)]
        # A leaf that outlives its CA would be found out by OpenSSL alone, late.
        not_after = min(now + life, self.certificate.not_valid_after_utc.timestamp())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name[:64])])
        certificate = (
            _builder(subject, self.certificate.subject, key, now, not_after, random)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(USES_OF_ROLE[identity.role]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return leaf_of_untrusted(certificate)


def _ca_certificate(
    cluster: str, key: PublicKey, signer: Key, now: float, random: Random
) -> x509.Certificate:
    name = _ca_name(cluster)
    return (
        _builder(name, name, key, now, now + CA_LIFE, random)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(signer, hashes.SHA256())
    )


def canonical_host(host: str) -> str:
    """The one spelling of an address or DNS name, as `Leaf.hosts` has it."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, now: float, not_after: float, random: Random
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(_serial(random))
        .not_valid_before(datetime.fromtimestamp(int(now - BACKDATE), UTC))
        .not_valid_after(datetime.fromtimestamp(int(not_after), UTC))
    )


def _serial(random: Random) -> int:
    """159 random bits: positive and within 20 octets (RFC 5280, section 4.1.2.2); never zero."""
    return (int.from_bytes(random(20), "big") >> 1) | 1


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _ca_name(cluster: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Raven CA"),
            x509.NameAttribute(NameOID.COMMON_NAME, cluster),
        ]
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.lower())  # ValueError unless ASCII
