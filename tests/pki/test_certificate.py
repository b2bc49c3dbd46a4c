import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.pki.certificate import (
    check_leaf_untrusted,
    load_ca_certificate,
    load_leaf,
    read_ca_untrusted,
)
from raven.pki.identity import Role
from tests.pki.material import NOW, make_authority, make_key, seeded

CA = make_authority()
KEY = make_key(7).public_key()
NODE = CA.issue_node("shop-1", KEY, now=NOW, random=seeded())
GATEWAY = CA.issue_gateway(
    "gw", KEY, hosts=["Gw.Example.COM", "192.0.2.1", "2001:DB8::0:1"], now=NOW, random=seeded()
)


def parsed(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


@pytest.mark.parametrize(
    "pem", [b"", b"garbage", NODE.pem.encode(), CA.certificate_pem.encode()[:-60], b"x" * 20000]
)
def test_what_is_no_ca_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_ca_certificate(pem)
    with pytest.raises(PeerError) as caught:
        read_ca_untrusted(pem.decode())
    assert caught.value.reason == "bad-ca"


@pytest.mark.parametrize("pem", [b"", b"garbage", CA.certificate_pem.encode(), NODE.pem.encode()[:-60]])
def test_what_is_no_leaf_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_leaf(pem)


def refused(data: bytes | str, *, role: Role = Role.NODE, cluster: str = "lab", now: float = NOW) -> str:
    with pytest.raises(PeerError) as caught:
        check_leaf_untrusted(data, CA.certificate, role=role, cluster=cluster, now=now)
    return caught.value.reason


def test_a_leaf_is_checked_in_either_form() -> None:
    der = parsed(NODE.pem).public_bytes(serialization.Encoding.DER)
    for data in (NODE.pem, der):
        assert check_leaf_untrusted(data, CA.certificate, role=Role.NODE, cluster="lab", now=NOW) == NODE


def test_each_way_a_leaf_can_be_wrong_has_its_word() -> None:
    foreign = make_authority(seed=2).issue_node("shop-1", KEY, now=NOW, random=seeded())
    assert refused(foreign.pem) == "foreign-certificate"
    assert refused(NODE.pem, role=Role.GATEWAY) == "wrong-role"
    assert refused(NODE.pem, cluster="other") == "wrong-cluster"
    assert refused(NODE.pem, now=NODE.not_before - 1) == "certificate-time"
    assert refused(NODE.pem, now=NODE.not_after + 1) == "certificate-time"
    assert refused("") == refused(b"") == refused(b"\x30\x00") == "bad-certificate"
    # The CA itself is signed by the CA, and is nobody's leaf.
    assert refused(CA.certificate_pem) == "bad-certificate"


def signed_by_the_ca(
    *extensions: tuple[x509.ExtensionType, bool], curve: ec.EllipticCurve | None = None
) -> str:
    """A certificate the CA would never make, with a good signature."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    begin = datetime.fromtimestamp(NOW - 60, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(CA.certificate.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(CA.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


LEAF = (x509.BasicConstraints(False, None), True)
CLIENT = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
BOTH = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False)


def names(*uris: str) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), False


URI = "raven://lab/node/shop-1"


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (signed_by_the_ca(), "bad-certificate"),
        (signed_by_the_ca(LEAF, CLIENT), "bad-certificate"),
        (signed_by_the_ca(LEAF, names(URI)), "bad-certificate"),
        (signed_by_the_ca(CLIENT, names(URI)), "bad-certificate"),
        (signed_by_the_ca((x509.BasicConstraints(True, 0), True), CLIENT, names(URI)), "bad-certificate"),
        (signed_by_the_ca(LEAF, BOTH, names(URI)), "bad-certificate"),
        (signed_by_the_ca(LEAF, CLIENT, names(URI), curve=ec.SECP384R1()), "bad-certificate"),
        (signed_by_the_ca(LEAF, CLIENT, names("raven://lab/gateway/gw")), "bad-certificate"),
        (signed_by_the_ca(LEAF, CLIENT, names("https://x.example")), "bad-identity"),
        (signed_by_the_ca(LEAF, CLIENT, names(URI, "raven://lab/node/b")), "bad-identity"),
        (signed_by_the_ca(LEAF, CLIENT, names("raven://lab/node/Shop-1")), "bad-identity"),
    ],
)
def test_a_good_signature_is_not_enough(pem: str, reason: str) -> None:
    assert refused(pem) == reason


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_garbage_is_one_typed_error(data: bytes | str) -> None:
    with pytest.raises(PeerError):
        check_leaf_untrusted(data, CA.certificate, role=Role.NODE, cluster="lab", now=NOW)


# The library still loads negative serial numbers and only warns; the signature fails as for any other byte.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_a_typed_error_or_means_nothing(at: int, flip: int) -> None:
    der = bytearray(parsed(NODE.pem).public_bytes(serialization.Encoding.DER))
    der[at % len(der)] ^= flip
    try:
        leaf = check_leaf_untrusted(bytes(der), CA.certificate, role=Role.NODE, cluster="lab", now=NOW)
    except PeerError:
        return
    # How many bits of the signature's last byte are unused is not signed; all that counts is.
    assert replace(leaf, pem="") == replace(NODE, pem="")


# The version of a certificate; another number is an exception of the library with no ancestor of its own.
def test_a_version_nobody_knows_is_a_typed_error() -> None:
    der = parsed(NODE.pem).public_bytes(serialization.Encoding.DER)
    newer = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03")
    pem = ssl.DER_cert_to_PEM_cert(newer)
    assert refused(newer) == refused(pem) == "bad-certificate"
    with pytest.raises(ValueError, match="not a certificate in PEM"):
        load_leaf(pem.encode())
    with pytest.raises(PeerError):
        read_ca_untrusted(pem)
