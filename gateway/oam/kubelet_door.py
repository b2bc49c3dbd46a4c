"""The doors of the terminating entry, from the options: six files, all of them or none."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from gateway.oam.entry import TLSDoor
from gateway.oam.identity import Identities
from gateway.oam.kubelet import KubeletProxy, Reloaded
from gateway.oam.requests import Requests
from gateway.options import GatewayOptions
from raven.config import Lead
from raven.errors import ConfigError
from raven.net.tls import kubelet_context, oam_context
from raven.registry.interface import Registry

_SERVING = ("kubelet_listen_certificate", "kubelet_listen_key", "kubelet_listen_client_ca")
_DIALLING = ("kubelet_client_certificate", "kubelet_client_key", "kubelet_ca")


def kubelet_doors(
    options: GatewayOptions, requests: Requests, registry: Registry, cluster: str
) -> Iterator[tuple[TLSDoor, Lead]]:
    """A door for each `kubelet_listen`. ConfigError for a file without a name, StateError for a bad one."""
    if not options.kubelet_listen:
        return
    serving, dialling = _files(options, _SERVING), _files(options, _DIALLING)
    shown = Reloaded(lambda: _asking_for_certificates(*serving), serving)
    upstream = Reloaded(lambda: kubelet_context(*dialling), dialling)
    identities = Identities(registry, cluster=cluster, own_ca=False)
    for lead in options.kubelet_listen:
        proxy = KubeletProxy(requests=requests, port=lead.port, context=upstream)
        yield TLSDoor(shown, identities, proxy), lead


def _files(options: GatewayOptions, keys: tuple[str, str, str]) -> tuple[Path, Path, Path]:
    first, second, third = (getattr(options, key) for key in keys)
    missing = ["--" + key.replace("_", "-") for key in keys if getattr(options, key) is None]
    if missing:
        raise ConfigError(
            f"--kubelet-listen needs {' and '.join(missing)} too; docs/kubernetes.md has all of it"
        )
    return first, second, third


def _asking_for_certificates(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """Nobody comes in without a certificate: strangers must not borrow the gateway's right to kubelets."""
    context = oam_context(certificate, key, client_ca, strict=False)
    context.verify_mode = ssl.CERT_REQUIRED
    context.sni_callback = _keep_name
    return context


def _keep_name(end: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
    """The server's end of a connection knows no name of its own, and so keeps the one that was asked for."""
    if isinstance(end, ssl.SSLSocket):
        end.server_hostname = name
