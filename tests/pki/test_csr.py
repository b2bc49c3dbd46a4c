import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.pki.csr import CSR_MAX, key_hash, key_pem, load_key, make_csr, new_key, read_csr_untrusted
from tests.pki.material import make_key, seeded

CSR = make_csr(make_key(), "shop-1")


def foreign_csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    return request.public_bytes(serialization.Encoding.PEM).decode()


def test_a_request_gives_the_key_that_signed_it() -> None:
    assert key_hash(read_csr_untrusted(CSR)) == key_hash(make_key().public_key())


def test_a_seed_makes_the_key() -> None:
    assert key_pem(new_key(seeded(5))) == key_pem(new_key(seeded(5)))
    assert key_pem(new_key(seeded(5))) != key_pem(new_key(seeded(6)))
    assert new_key(lambda n: b"\xff" * n).key_size == new_key(bytes).key_size == 256


def test_a_key_comes_back_from_its_file() -> None:
    assert key_pem(load_key(key_pem(make_key()))) == key_pem(make_key())


@pytest.mark.parametrize("pem", [b"", b"garbage", key_pem(make_key())[:-40], CSR.encode()])
def test_a_damaged_key_file_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_key(pem)


def test_keys_of_another_kind_or_encrypted_are_value_errors() -> None:
    form = serialization.PrivateFormat.PKCS8
    other = ec.generate_private_key(ec.SECP384R1())
    plain = other.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    sealed = make_key().private_bytes(
        serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"x")
    )
    for pem in (plain, sealed):
        with pytest.raises(ValueError, match="not an"):
            load_key(pem)


def test_a_request_that_somebody_altered_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(CSR.encode()).public_bytes(serialization.Encoding.DER))
    at = der.index(b"shop-1")
    der[at : at + 6] = b"shop-2"
    altered = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(PeerError, match="not signed by the key in it") as caught:
        read_csr_untrusted(altered)
    assert caught.value.reason == "bad-csr"


def test_a_request_with_somebody_elses_key_in_it_is_refused() -> None:
    csrs = [x509.load_pem_x509_csr(make_csr(make_key(seed), "shop-1").encode()) for seed in (1, 2)]
    points = [
        csr.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for csr in csrs
    ]
    der = csrs[0].public_bytes(serialization.Encoding.DER).replace(points[0], points[1])
    stolen = x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(PeerError, match="not signed by the key in it"):
        read_csr_untrusted(stolen)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "secp256k1", "Ed25519", "RSA"],
)
def test_other_kinds_of_keys_are_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    with pytest.raises(PeerError, match="not ECDSA P-256"):
        read_csr_untrusted(foreign_csr(key))


def test_an_oversized_request_is_refused_unread() -> None:
    with pytest.raises(PeerError, match=str(CSR_MAX)):
        read_csr_untrusted(CSR + "\n" * CSR_MAX)


@given(
    st.text(max_size=300)
    | st.tuples(st.integers(30, len(CSR) - 30), st.characters()).map(
        lambda change: CSR[: change[0]] + change[1] + CSR[change[0] + 1 :]
    )
)
def test_garbage_is_one_typed_error_or_the_same_key(text: str) -> None:
    try:
        key = read_csr_untrusted(text)
    except PeerError:
        return
    # A change that base64 does not notice, or that leaves the signature good, leaves the key as well.
    assert key_hash(key) == key_hash(make_key().public_key())
