"""Finds the CA of an API server by the hash of its public key, as `kubeadm join` does.

kubeadm's ConfigMap kube-public/cluster-info, which everybody may read, has the CA's certificate. It is read
over TLS that verifies nothing and with no credential; the hash, which came another way, decides.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import ssl
from collections.abc import Callable
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from raven.errors import ConfigError, RefusedError
from raven.kube.access import Access
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.resources import CONFIG_MAPS

NAMESPACE, NAME = "kube-public", "cluster-info"
PREFIX = "sha256:"
_KUBECONFIG_MAX = 1 << 18  # characters; kubeadm's has one cluster with one CA, some 2,000


def parse_pin(text: str) -> bytes:
    """The hash in sha256:HEX; ValueError for anything else."""
    if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", text):
        raise ValueError("expected sha256: and 64 hexadecimal digits")
    return bytes.fromhex(text.removeprefix(PREFIX))


async def find_ca(server: str, pin: bytes, *, connect: Callable[[Access], Client] = Client) -> str:
    """The certificates, in PEM, whose public key has the hash; none that merely stands beside one.

    RefusedError "wrong-ca" when there is none; ConfigError when the cluster does not tell; KubeError.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = connect(Access(server=server, namespace="", context=context))
    try:
        config = await client.get(CONFIG_MAPS, NAME, namespace=NAMESPACE)
    except KubeError as error:
        if error.reason not in ("unauthorized", "forbidden", "not-found"):
            raise
        raise ConfigError(
            f"{server} does not tell everybody its CA, as kubeadm's clusters do in ConfigMap"
            f" {NAMESPACE}/{NAME} ({error}); give the CA's certificate: --api-ca FILE"
        ) from error
    finally:
        await client.aclose()
    certificates = _certificates_untrusted(config.data.get("kubeconfig", ""))
    good = [one for one in certificates if hmac.compare_digest(_hash(one), pin)]
    if not good:
        raise RefusedError(
            "wrong-ca",
            f"{server} tells of a CA with another key than {PREFIX}{pin.hex()}: the hash is of another"
            " cluster, or somebody in between pretends to be this API server. The token was not sent",
        )
    return "".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in good)


def _certificates_untrusted(kubeconfig: str) -> list[x509.Certificate]:
    """All that stand in a kubeconfig that nobody vouches for; none where it cannot be read."""
    if len(kubeconfig) > _KUBECONFIG_MAX:
        return []
    try:
        config: Any = yaml.safe_load(kubeconfig)
        pem = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"], validate=True)
        return x509.load_pem_x509_certificates(pem)
    except (yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError):
        return []


def _hash(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
