"""Certificates read and judged: what one says, whether a CA signed it, for whom, and whether it counts now.

Below `ca`, which makes them. A good signature is not enough: a leaf has one identity, the one use that its
role has, and the one kind of key there is.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from raven.errors import PeerError
from raven.pki.csr import UNUSABLE, key_hash
from raven.pki.identity import Identity, Role, identity_among_untrusted
from raven.pki.renewal import is_valid_at, renew_at

PEM_MAX = 16384  # characters of one certificate looked at; ours have 900

# What the TLS library of the other end demands of a certificate's holder (RFC 5280, section 4.2.1.12).
# Gateways dial one another too; being dialled is what sets them apart from nodes.
USES_OF_ROLE = {
    Role.NODE: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Role.GATEWAY: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    Role.OPERATOR: (ExtendedKeyUsageOID.CLIENT_AUTH,),
}


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


def load_ca_certificate(pem: bytes) -> x509.Certificate:
    """The CA certificate in `pem`; ValueError when it is not one, or not one of ours in kind."""
    certificate = _certificate(pem)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except UNUSABLE as error:
        raise ValueError("not a CA certificate") from error
    if not constraints.ca or constraints.path_length != 0 or not _is_p256(certificate):
        raise ValueError("not a CA certificate of Raven's kind (P-256, path length 0)")
    return certificate


def read_ca_untrusted(pem: str) -> x509.Certificate:
    """The CA certificate a stranger sent; PeerError "bad-ca"."""
    try:
        return load_ca_certificate(pem.encode("utf-8", "replace"))
    except ValueError as error:
        raise PeerError("bad-ca", f"the CA certificate sent cannot be used: {error}") from error


def check_link_untrusted(link_pem: str, known: x509.Certificate, following: x509.Certificate) -> None:
    """Returns if the holder of the `known` CA's key vouches for the `following` CA; PeerError "bad-link"."""
    try:
        link = load_ca_certificate(link_pem.encode("utf-8", "replace"))
        link.verify_directly_issued_by(known)
    except UNUSABLE as error:
        raise PeerError("bad-link", "nobody we know vouches for the CA that was sent") from error
    if pin_of(link) != pin_of(following) or following.subject != known.subject:
        raise PeerError("bad-link", "the CA that was sent is not the one that is vouched for")


def pin_of(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo: survives a new certificate for the same key."""
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # whoever loaded it made sure
    return key_hash(key)


def load_leaf(pem: bytes) -> Leaf:
    """The leaf in a PEM file of ours; ValueError otherwise."""
    try:
        return leaf_of_untrusted(_certificate(pem))
    except PeerError as error:
        raise ValueError(str(error)) from error


def check_leaf_untrusted(
    data: bytes | str, ca: x509.Certificate, *, role: Role, cluster: str, now: float | None
) -> Leaf:
    """The leaf in `data` (DER bytes or PEM text), which `ca` signed for a `role` of `cluster` and which
    counts `now`; None leaves the times to the caller.

    PeerError "bad-certificate", "foreign-certificate", "bad-identity", "wrong-cluster", "wrong-role" or
    "certificate-time".
    """
    try:
        if isinstance(data, str):
            certificate = _certificate(data.encode("utf-8", "replace"))
        else:
            certificate = x509.load_der_x509_certificate(data)
    except UNUSABLE as error:
        raise PeerError("bad-certificate", "the certificate cannot be read") from error
    try:
        certificate.verify_directly_issued_by(ca)
    except UNUSABLE as error:
        message = "the certificate is not signed by the CA it should be"
        raise PeerError("foreign-certificate", message) from error
    leaf = leaf_of_untrusted(certificate)
    if leaf.identity.cluster != cluster:
        raise PeerError(
            "wrong-cluster", f"the certificate is for {leaf.identity}, expected cluster {cluster}"
        )
    if leaf.identity.role is not role:
        raise PeerError("wrong-role", f"the certificate is for {leaf.identity}, expected a {role}")
    if now is not None and not is_valid_at(now, leaf.not_before, leaf.not_after):
        bounds = " to ".join(_date(moment) for moment in (leaf.not_before, leaf.not_after))
        raise PeerError("certificate-time", f"the certificate counts from {bounds}, and it is {_date(now)}")
    return leaf


def leaf_of_untrusted(certificate: x509.Certificate) -> Leaf:
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
        raise PeerError("bad-certificate", "the certificate is not one of Raven's") from error
    identity = identity_among_untrusted(names.get_values_for_type(x509.UniformResourceIdentifier))
    expected = USES_OF_ROLE[identity.role]
    # One use is enough: gateways' certificates of an earlier Raven are not for dialling.
    if constraints.ca or tuple(usages) not in (expected, expected[:1]):
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


def _certificate(pem: bytes) -> x509.Certificate:
    if len(pem) > PEM_MAX:
        raise ValueError(f"{len(pem)} bytes are too many for one certificate")
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNUSABLE as error:  # whose text is about PEM framing and ASN.1, for programmers
        raise ValueError("not a certificate in PEM") from error


def _is_p256(certificate: x509.Certificate) -> bool:
    try:
        key = certificate.public_key()
    except UNUSABLE:
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _serial_text(serial: int) -> str:
    """The spelling of ssl.getpeercert(): upper-case hexadecimal in whole bytes."""
    digits = f"{serial:X}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
