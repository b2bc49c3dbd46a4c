"""The cluster's certificate authority: what it signs, and how what it signed is checked.

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
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raven.errors import PeerError
from raven.pki.csr import UNUSABLE, Key, PublicKey, key_hash
from raven.pki.identity import Identity, Role, gateway_identity, identity_among_untrusted, node_identity
from raven.pki.renewal import BACKDATE, CA_LIFE, LEAF_LIFE, is_valid_at, renew_at

Random = Callable[[int], bytes]

PEM_MAX = 16384  # characters of one certificate looked at; ours have 900


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate of a node or a gateway, with what is asked of it."""

    pem: str
    identity: Identity
    serial: str  # as ssl.getpeercert() spells it
    key_hash: bytes
    not_before: float  # Unix seconds
    not_after: float
    hosts: tuple[str, ...]  # of a gateway: the addresses and DNS names it is dialled at

    @property
    def renew_at(self) -> float:
        return renew_at(self.not_before, self.not_after)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign."""

    cluster: str
    certificate: x509.Certificate
    key: Key = field(repr=False)

    @classmethod
    def create(cls, cluster: str, key: Key, *, now: float, random: Random) -> Self:
        """A CA for `cluster` that begins now; made again with the same key it has the same pin."""
        name = _ca_name(cluster)
        builder = _builder(name, name, key.public_key(), now, now + CA_LIFE, random)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(cluster, certificate, key)

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

    def _issue(
        self, identity: Identity, key: PublicKey, hosts: Sequence[str], now: float, random: Random
    ) -> Leaf:
        usage = {Role.NODE: ExtendedKeyUsageOID.CLIENT_AUTH, Role.GATEWAY: ExtendedKeyUsageOID.SERVER_AUTH}
        names = [x509.UniformResourceIdentifier(identity.uri), *map(_host_name, hosts)]
        # A leaf that outlives its CA would be found out by OpenSSL alone, late.
        not_after = min(now + LEAF_LIFE, self.certificate.not_valid_after_utc.timestamp())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name[:64])])
        certificate = (
            _builder(subject, self.certificate.subject, key, now, not_after, random)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage[identity.role]]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return _leaf_untrusted(certificate)


def canonical_host(host: str) -> str:
    """The one spelling of an address or DNS name, as `Leaf.hosts` has it."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def load_ca_certificate(pem: bytes) -> x509.Certificate:
    """The CA certificate in `pem`; ValueError when it is not one, or not one of ours in kind."""
    certificate = _certificate(pem)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except UNUSABLE as error:
        raise ValueError(f"not a CA certificate: {error}") from error
    if not constraints.ca or constraints.path_length != 0 or not _is_p256(certificate):
        raise ValueError("not a CA certificate of Raven's kind (P-256, path length 0)")
    return certificate


def load_leaf(pem: bytes) -> Leaf:
    """The leaf in a PEM file of ours; ValueError otherwise."""
    try:
        return _leaf_untrusted(_certificate(pem))
    except PeerError as error:
        raise ValueError(str(error)) from error


def pin_of(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo: survives a new certificate for the same key."""
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # whoever loaded it made sure
    return key_hash(key)


def read_ca_untrusted(pem: str) -> x509.Certificate:
    """The CA certificate a stranger sent; PeerError "bad-ca"."""
    try:
        return load_ca_certificate(pem.encode("utf-8", "replace"))
    except ValueError as error:
        raise PeerError("bad-ca", f"the CA certificate sent cannot be used: {error}") from error


def check_leaf_untrusted(
    data: bytes | str, ca: x509.Certificate, *, role: Role, cluster: str, now: float
) -> Leaf:
    """The leaf in `data` (DER bytes or PEM text), which `ca` signed for a `role` of `cluster` and which
    counts `now`.

    PeerError "bad-certificate", "foreign-certificate", "bad-identity", "wrong-cluster", "wrong-role" or
    "certificate-time".
    """
    try:
        if isinstance(data, str):
            certificate = _certificate(data.encode("utf-8", "replace"))
        else:
            certificate = x509.load_der_x509_certificate(data)
    except UNUSABLE as error:
        raise PeerError("bad-certificate", f"the certificate cannot be read: {error}") from error
    try:
        certificate.verify_directly_issued_by(ca)
    except UNUSABLE as error:
        message = "the certificate is not signed by the CA it should be"
        raise PeerError("foreign-certificate", message) from error
    leaf = _leaf_untrusted(certificate)
    if leaf.identity.cluster != cluster:
        raise PeerError(
            "wrong-cluster", f"the certificate is for {leaf.identity}, expected cluster {cluster}"
        )
    if leaf.identity.role is not role:
        raise PeerError("wrong-role", f"the certificate is for {leaf.identity}, expected a {role}")
    if not is_valid_at(now, leaf.not_before, leaf.not_after):
        bounds = " to ".join(_date(moment) for moment in (leaf.not_before, leaf.not_after))
        raise PeerError("certificate-time", f"the certificate counts from {bounds}, and it is {_date(now)}")
    return leaf


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


def _certificate(pem: bytes) -> x509.Certificate:
    if len(pem) > PEM_MAX:
        raise ValueError(f"{len(pem)} bytes are too many for one certificate")
    try:
        return x509.load_pem_x509_certificate(pem)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from error


def _is_p256(certificate: x509.Certificate) -> bool:
    try:
        key = certificate.public_key()
    except UNUSABLE:
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _leaf_untrusted(certificate: x509.Certificate) -> Leaf:
    """What a leaf says about itself, signature unchecked; PeerError "bad-certificate" or "bad-identity"."""
    try:
        if not _is_p256(certificate):
            raise ValueError("its key is not ECDSA P-256")
        key = pin_of(certificate)
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except UNUSABLE as error:
        raise PeerError("bad-certificate", f"the certificate cannot be used: {error}") from error
    identity = identity_among_untrusted(names.get_values_for_type(x509.UniformResourceIdentifier))
    wanted = {Role.NODE: ExtendedKeyUsageOID.CLIENT_AUTH, Role.GATEWAY: ExtendedKeyUsageOID.SERVER_AUTH}
    if constraints.ca or list(usages) != [wanted[identity.role]]:
        raise PeerError(
            "bad-certificate", f"the certificate of {identity} has other uses than a {identity.role}'s"
        )
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return Leaf(
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        identity=identity,
        serial=_serial_text(certificate.serial_number),
        key_hash=key,
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        hosts=(*addresses, *names.get_values_for_type(x509.DNSName)),
    )


def _serial_text(serial: int) -> str:
    """The spelling of ssl.getpeercert(): upper-case hexadecimal in whole bytes."""
    digits = f"{serial:X}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
