"""Where the API server is and how we show who we are: from inside a pod, or from a kubeconfig.

Private keys and tokens given inline never touch a disk, and nothing here has a secret in its repr.
"""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from raven.errors import ConfigError, StateError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_LIFE = 60.0  # seconds a token is used before its file is read again; the kubelet replaces it hourly
# Keys of a user without which we would be somebody else to the API server, or nobody.
_NOT_OURS = {
    "exec": "which Raven does not run",
    "auth-provider": "which Raven does not run",
    "as": "and Raven impersonates nobody",
    "as-uid": "and Raven impersonates nobody",
    "as-groups": "and Raven impersonates nobody",
    "as-user-extra": "and Raven impersonates nobody",
    "username": "and Raven sends no password",
    "password": "and Raven sends no password",
}
_FILE_MAX = 1 << 20  # bytes; a kubeconfig of many clusters has some tens of kilobytes


@dataclass(slots=True)
class Token:
    """A bearer token that may be replaced in its file while we run."""

    read: Callable[[], str] = field(repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _text: str = field(default="", repr=False)
    _until: float = field(default=0.0, repr=False)

    def text(self, *, renewed: bool = False) -> str:
        """The token; `renewed` reads it again at once. StateError where its file cannot be read."""
        if renewed or not self._text or self.clock() >= self._until:
            self._text, self._until = self.read(), self.clock() + TOKEN_LIFE
        return self._text


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One API server and our standing with it."""

    server: str  # https://HOST:PORT
    namespace: str  # ours, or the kubeconfig's
    context: ssl.SSLContext | None = field(default=None, repr=False)  # None: plain HTTP, for tests
    tls_name: str = ""  # whom its certificate is to be for, where that is not the host of `server`
    token: Token | None = None
    user: str = ""  # what the kubeconfig calls us, which need not be what the API server does
    certificate: bytes = field(default=b"", repr=False)  # the client certificate in PEM, where there is one

    def within(self, namespace: str) -> Access:
        """The same API server and standing, in another namespace."""
        return replace(self, namespace=namespace)


def is_pod(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a pod with a ServiceAccount."""
    return "KUBERNETES_SERVICE_HOST" in environ and (SERVICE_ACCOUNT / "token").exists()


def find_access(kubeconfig: str = "", *, environ: Mapping[str, str] = os.environ) -> Access:
    """From the file that was named, else from inside a pod, else from $KUBECONFIG or ~/.kube/config.

    ConfigError says what is missing.
    """
    if kubeconfig:
        return read_kubeconfig(Path(kubeconfig))
    if is_pod(environ):
        return in_cluster(environ)
    listed = [one for one in environ.get("KUBECONFIG", "").split(":") if one]
    paths = listed or [str(Path.home() / ".kube" / "config")]
    there = [one for one in paths if Path(one).exists()]
    if not there:
        raise ConfigError(f"no Kubernetes here: this is no pod, and there is no kubeconfig at {paths[0]}")
    if len(there) > 1:
        raise ConfigError(
            f"KUBECONFIG={':'.join(listed)}: Raven reads one file and does not merge; name one, or make one:"
            " kubectl config view --flatten --minify"
        )
    return read_kubeconfig(Path(there[0]))


def in_cluster(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> Access:
    """The access that the kubelet gives every pod. ConfigError where it did not."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        namespace = (directory / "namespace").read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{directory}: the ServiceAccount is not mounted: {error}") from error
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=namespace,
        context=context,
        token=Token(_reader(directory / "token")),
    )


def read_kubeconfig(path: Path, *, context_name: str = "") -> Access:
    """The current context of a kubeconfig. ConfigError names the file and the key that cannot be used."""
    try:
        data = path.read_bytes()[: _FILE_MAX + 1]
        config = yaml.safe_load(data.decode()) if len(data) <= _FILE_MAX else None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this kubeconfig: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a kubeconfig: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: not a kubeconfig: expected YAML with clusters, users and contexts")
    name = context_name or config.get("current-context") or ""
    context = _named(path, config, "contexts", "context", name)
    cluster = _named(path, config, "clusters", "cluster", context.get("cluster", ""))
    user = _named(path, config, "users", "user", context.get("user", "")) if context.get("user") else {}
    for key, why in _NOT_OURS.items():
        if user.get(key):
            raise ConfigError(
                f"{path}: user {context['user']} has {key!r}, {why}; give it a token or a"
                " client certificate, as `kubectl create token` makes one"
            )
    if cluster.get("proxy-url"):
        raise ConfigError(
            f"{path}: cluster {context.get('cluster')} has 'proxy-url', and Raven dials the API server itself"
        )
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        raise ConfigError(f"{path}: cluster {context.get('cluster')}: server: expected https://HOST:PORT")
    try:
        tls = _tls(path, cluster, user) if server.startswith("https://") else None
        certificate = _bytes(path, user, "client-certificate")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"{path}: a certificate or key in it cannot be used: {error}") from error
    return Access(
        server=server.rstrip("/"),
        namespace=context.get("namespace") or "default",
        context=tls,
        tls_name=str(cluster.get("tls-server-name") or ""),
        token=_token(path, user),
        user=context.get("user") or "",
        certificate=certificate,
    )


def by_token(server: str, ca_pem: str, token: str) -> Access:
    """Access without a kubeconfig. ConfigError for a URL or a CA that cannot be used."""
    try:
        context = ssl.create_default_context(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the CA of {server} cannot be used: {error}") from error
    return Access(server=server, namespace="default", context=context, token=Token(lambda: token))


def _named(path: Path, config: Mapping[str, Any], section: str, key: str, name: str) -> dict[str, Any]:
    for entry in config.get(section) or []:
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(key), dict):
            found: dict[str, Any] = entry[key]
            return found
    raise ConfigError(f"{path}: {section}: there is none of the name {name!r}")


def _tls(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        raise ValueError("insecure-skip-tls-verify is set, and Raven always verifies the API server")
    if authority := _bytes(path, cluster, "certificate-authority"):
        context = ssl.create_default_context(cadata=authority.decode("ascii"))
    certificate, key = _bytes(path, user, "client-certificate"), _bytes(path, user, "client-key")
    if certificate and key:
        # The ssl module reads keys from files only; this one has no name on any disk.
        descriptor = os.memfd_create("client certificate")
        try:
            os.write(descriptor, certificate + b"\n" + key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    return context


def _bytes(path: Path, section: Mapping[str, Any], key: str) -> bytes:
    """What stands inline in `KEY-data`, or in the file that `KEY` names, relative to the kubeconfig."""
    if inline := section.get(f"{key}-data"):
        return base64.b64decode(inline, validate=True)
    return (path.parent / section[key]).read_bytes() if section.get(key) else b""


def _token(path: Path, user: Mapping[str, Any]) -> Token | None:
    if name := user.get("tokenFile"):
        return Token(_reader(path.parent / name))
    text = user.get("token")
    return Token(lambda: str(text)) if text else None


def _reader(path: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return path.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise StateError(f"{path}: the token for the API server cannot be read: {error}") from error

    return read
