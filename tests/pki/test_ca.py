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
from raven.pki.ca import (
    Authority,
    Leaf,
    canonical_host,
    check_leaf_untrusted,
    load_ca_certificate,
    load_leaf,
    read_ca_untrusted,
)
from raven.pki.csr import key_hash, key_pem
from raven.pki.identity import Role, gateway_identity, node_identity
from raven.pki.renewal import BACKDATE, CA_LIFE, LEAF_LIFE
from tests.pki.material import NOW, make_authority, make_key, seeded

CA = make_authority()
KEY = make_key(7).public_key()
NODE = CA.issue_node("shop-1", KEY, now=NOW, random=seeded())
GATEWAY = CA.issue_gateway(
    "gw", KEY, hosts=["Gw.Example.COM", "192.0.2.1", "2001:DB8::0:1"], now=NOW, random=seeded()
)


def parsed(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def extension(
    certificate: x509.Certificate, kind: type[x509.ExtensionType]
) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def test_the_ca_signs_leaves_and_nothing_else() -> None:
    constraints = extension(CA.certificate, x509.BasicConstraints)
    assert constraints == x509.Extension(constraints.oid, True, x509.BasicConstraints(True, 0))
    usage = extension(CA.certificate, x509.KeyUsage)
    assert isinstance(usage.value, x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (
        True,
        True,
        False,
    )


def test_validity_is_backdated_for_slow_clocks() -> None:
    def bounds(certificate: x509.Certificate) -> tuple[float, float]:
        return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()

    assert bounds(CA.certificate) == (NOW - BACKDATE, NOW + CA_LIFE)
    assert bounds(parsed(NODE.pem)) == (NOW - BACKDATE, NOW + LEAF_LIFE) == (NODE.not_before, NODE.not_after)
    assert NOW + 59 * 86400 < NODE.renew_at < NOW + 60 * 86400


def test_a_leaf_does_not_outlive_its_ca() -> None:
    late = NOW + CA_LIFE - 86400
    assert CA.issue_node("shop-1", KEY, now=late, random=seeded()).not_after == NOW + CA_LIFE


@pytest.mark.parametrize(
    ("leaf", "use"),
    [(NODE, ExtendedKeyUsageOID.CLIENT_AUTH), (GATEWAY, ExtendedKeyUsageOID.SERVER_AUTH)],
    ids=["node", "gateway"],
)
def test_a_leaf_serves_one_role(leaf: Leaf, use: x509.ObjectIdentifier) -> None:
    certificate = parsed(leaf.pem)
    assert extension(certificate, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([use])
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints == x509.Extension(constraints.oid, True, x509.BasicConstraints(False, None))
    usage = extension(certificate, x509.KeyUsage).value
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)


def test_a_node_has_its_identity_and_no_other_name() -> None:
    names = extension(parsed(NODE.pem), x509.SubjectAlternativeName).value
    assert names == x509.SubjectAlternativeName([x509.UniformResourceIdentifier("raven://lab/node/shop-1")])
    assert (NODE.identity, NODE.hosts) == (node_identity("lab", "shop-1"), ())


def test_a_gateway_has_the_hosts_it_is_dialled_at() -> None:
    assert GATEWAY.identity == gateway_identity("lab", "gw")
    assert set(GATEWAY.hosts) == {"gw.example.com", "192.0.2.1", "2001:db8::1"}
    assert set(map(canonical_host, ["Gw.Example.COM", "192.0.2.1", "2001:DB8::0:1"])) == set(GATEWAY.hosts)


def test_a_host_that_no_certificate_can_name_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r".+"):
        CA.issue_gateway("gw", KEY, hosts=["bücher.example"], now=NOW, random=seeded())


def test_serial_numbers_are_random_positive_and_short_enough() -> None:
    serials = [
        CA.issue_node("a", KEY, now=NOW, random=fill).serial
        for fill in (bytes, lambda n: b"\xff" * n, seeded(3))
    ]
    assert serials == ["01", "7F" + "FF" * 19, serials[2]]
    assert len(serials[2]) % 2 == 0


def test_the_pin_is_of_the_key_and_survives_a_new_certificate() -> None:
    again = make_authority(now=NOW + 86400)
    assert again.certificate != CA.certificate
    assert again.pin == CA.pin == key_hash(make_key().public_key())
    check_leaf_untrusted(NODE.pem, again.certificate, role=Role.NODE, cluster="lab", now=NOW)


def test_a_ca_comes_back_from_its_files() -> None:
    loaded = Authority.load("lab", CA.certificate_pem.encode(), make_key())
    assert loaded.issued(NODE)
    assert not make_authority(seed=2).issued(NODE)


@pytest.mark.parametrize(("cluster", "seed"), [("lab", 2), ("other", 1)])
def test_files_that_do_not_belong_together_are_value_errors(cluster: str, seed: int) -> None:
    with pytest.raises(ValueError, match=r"belong together|not of cluster"):
        Authority.load(cluster, CA.certificate_pem.encode(), make_key(seed))


def test_a_ca_never_shows_its_key() -> None:
    assert "key" not in repr(CA)
    assert key_pem(make_key()).split(b"\n")[1].decode() not in repr(CA)


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
    with pytest.raises(ValueError, match="version"):
        load_leaf(pem.encode())
    with pytest.raises(PeerError):
        read_ca_untrusted(pem)
