"""A cluster's CA, keys and clock for tests, from a seed: the same bytes each run, but for the signatures."""

import random
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from raven.pki.ca import Authority
from raven.pki.certificate import Leaf
from raven.pki.csr import Key, new_key

NOW = 1_800_000_000.0  # Unix seconds, January 2027


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def make_key(seed: int = 1) -> Key:
    return new_key(seeded(seed))


def make_authority(cluster: str = "lab", *, seed: int = 1, now: float = NOW) -> Authority:
    return Authority.create(cluster, make_key(seed), now=now, random=seeded(seed + 1000))


def der(leaf: Leaf) -> bytes:
    return x509.load_pem_x509_certificate(leaf.pem.encode()).public_bytes(Encoding.DER)
