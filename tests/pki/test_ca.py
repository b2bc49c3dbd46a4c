import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from raven.pki.ca import Authority, canonical_host
from raven.pki.certificate import Leaf, check_leaf_untrusted
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
    [
        (NODE, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        (GATEWAY, [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
    ],
    ids=["node", "gateway"],
)
def test_a_leaf_serves_one_role(leaf: Leaf, use: list[x509.ObjectIdentifier]) -> None:
    certificate = parsed(leaf.pem)
    assert extension(certificate, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage(use)
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
