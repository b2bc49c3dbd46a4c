"""Keys and certificate requests: what a joining node makes, and what a gateway takes from it.

A request's subject and extensions are wishes of a stranger and are never looked at. All that is taken is
the public key, after the request's own signature proved that its sender holds the private one.
"""

import hashlib
from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raven.errors import PeerError

CSR_MAX = 8192  # characters; a P-256 request is 500, the rest is room for extensions we ignore

# Whatever the library says about bytes it does not like; some of it has no common ancestor but Exception.
UNUSABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

# NIST SP 800-186, section 3.2.1.3: the order of the group of P-256.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def new_key(random: Callable[[int], bytes]) -> Key:
    """A P-256 key from the caller's randomness (FIPS 186-5, appendix A.2.1: 64 extra bits against bias)."""
    scalar = int.from_bytes(random(40), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """PKCS #8, not encrypted: the file's mode protects it. A secret."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> Key:
    """The key in a PEM file of ours; ValueError for anything else."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"not an unencrypted private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not an ECDSA P-256 key")
    return key


def key_hash(key: PublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo; of a CA's key, this is the pin."""
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).digest()


def make_csr(key: Key, name: str) -> str:
    """A request in PEM that proves possession of `key`; `name` is for people reading it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


def read_csr_untrusted(pem: str) -> PublicKey:
    """The public key whose holder made the request; PeerError "bad-csr" otherwise.

    Only ECDSA on P-256: one kind of key is one kind of surprise, and every agent of ours makes that kind.
    """
    if len(pem) > CSR_MAX:
        raise PeerError("bad-csr", f"the certificate request has {len(pem)} characters, more than {CSR_MAX}")
    try:
        request = x509.load_pem_x509_csr(pem.encode("utf-8", "replace"))
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise PeerError("bad-csr", "the certificate request's key is not ECDSA P-256")
        signed = request.is_signature_valid
    except UNUSABLE as error:
        raise PeerError("bad-csr", "the certificate request cannot be read") from error
    if not signed:
        raise PeerError("bad-csr", "the certificate request is not signed by the key in it")
    return key


def requested_name_untrusted(pem: str, uri_of: Callable[[str], str]) -> str:
    """The one name that a request asks for; PeerError "bad-csr" for none, several, or any other kind.

    `read_csr_untrusted` ignores names because whoever asks there has shown by other means who it is. This is
    for a request that strangers to it judge: all that it asks for has to be said by its common name, and an
    alternative name may only repeat it as `uri_of` spells it.
    """
    read_csr_untrusted(pem)
    try:
        request = x509.load_pem_x509_csr(pem.encode("utf-8", "replace"))
        names = [str(one.value) for one in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        others: list[str] = []
        for extension in request.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                others += [str(one.value) for one in extension.value]
            elif isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
                raise PeerError("bad-csr", "the certificate request asks to be a CA")
    except UNUSABLE as error:
        raise PeerError("bad-csr", "the certificate request cannot be read") from error
    if len(names) != 1 or len(names) != len(request.subject):
        raise PeerError("bad-csr", "the certificate request's subject is not one common name")
    if any(other != uri_of(names[0]) for other in others):
        raise PeerError("bad-csr", f"the certificate request has names beside node {names[0][:64]}")
    return names[0]
