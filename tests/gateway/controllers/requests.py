"""Certificate requests as an API server has them."""

from __future__ import annotations

import base64

from raven.kube.objects import Condition, Meta
from raven.kube.resources import (
    CertificateSigningRequest,
    CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
)
from raven.kube.signing import SIGNER


def request(
    pem: str,
    username: str,
    *groups: str,
    usages: tuple[str, ...] = ("client auth",),
    conditions: tuple[Condition, ...] = (),
) -> CertificateSigningRequest:
    return CertificateSigningRequest(
        metadata=Meta(name="r"),
        spec=CertificateSigningRequestSpec(
            request=base64.b64encode(pem.encode()).decode(),
            signer_name=SIGNER,
            usages=usages,
            username=username,
            groups=groups,
        ),
        status=CertificateSigningRequestStatus(conditions=conditions),
    )
