"""Finding the API server: kubeconfigs good and bad, a ServiceAccount, tokens that change in their file."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from raven.errors import ConfigError, StateError
from raven.kube.access import TOKEN_LIFE, Token, find_access, in_cluster, read_kubeconfig
from tests.pki.material import make_authority

CA = make_authority().certificate_pem


def written(path: Path, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> Path:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "edge"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {"token": "hunter2"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_kubeconfig(tmp_path: Path) -> None:
    inline = {"certificate-authority-data": base64.b64encode(CA.encode()).decode()}
    access = read_kubeconfig(written(tmp_path / "config", cluster=inline))
    assert (access.server, access.namespace) == ("https://192.0.2.1:6443", "edge")
    assert access.context is not None
    assert access.context.verify_mode is ssl.CERT_REQUIRED
    assert len(access.context.get_ca_certs()) == 1
    assert access.token is not None
    assert access.token.text() == "hunter2"
    assert "hunter2" not in repr(access)


def test_files_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(CA)
    (tmp_path / "token").write_text("hunter3\n")
    path = written(
        tmp_path / "config", cluster={"certificate-authority": "ca.crt"}, user={"tokenFile": "token"}
    )
    access = read_kubeconfig(path)
    assert access.token is not None
    assert access.token.text() == "hunter3"


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({}, {"exec": {"command": "aws"}}, "user u has 'exec'"),
        ({}, {"auth-provider": {"name": "gcp"}}, "user u has 'auth-provider'"),
        ({}, {"token": "t", "as": "jane"}, "user u has 'as', and Raven impersonates nobody"),
        ({}, {"token": "t", "as-groups": ["ops"]}, "user u has 'as-groups'"),
        (
            {},
            {"username": "jane", "password": "hunter2"},
            "user u has 'username', and Raven sends no password",
        ),
        ({"proxy-url": "http://192.0.2.9:3128"}, {}, "cluster k has 'proxy-url'"),
        ({"server": "192.0.2.1"}, {}, "expected https://HOST:PORT"),
        ({"insecure-skip-tls-verify": True}, {}, "always verifies"),
        ({"certificate-authority": "absent.crt"}, {}, "cannot be used"),
        ({"certificate-authority-data": "?"}, {}, "cannot be used"),
        ({}, {"client-certificate-data": "eA==", "client-key-data": "eA=="}, "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named(
    cluster: dict[str, Any], user: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="config") as caught:
        read_kubeconfig(written(tmp_path / "config", cluster=cluster, user=user or {"token": "t"}))
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a: [", "[]", "{}", "current-context: none\ncontexts: []"])
def test_what_is_no_kubeconfig(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)):
        read_kubeconfig(path)


def test_inside_a_pod(tmp_path: Path) -> None:
    for name, text in (("ca.crt", CA), ("namespace", "raven\n"), ("token", "hunter2")):
        (tmp_path / name).write_text(text)
    access = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert (access.server, access.namespace) == ("https://[fd00::1]:443", "raven")
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(ConfigError, match="not mounted"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, tmp_path)


def test_the_kubeconfig_of_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path / "config")
    assert find_access(environ={"KUBECONFIG": str(path)}).namespace == "edge"
    with pytest.raises(ConfigError, match="no Kubernetes here"):
        find_access(environ={"KUBECONFIG": str(tmp_path / "absent")})


def test_several_kubeconfigs_of_the_environment_are_not_merged(tmp_path: Path) -> None:
    """kubectl would; to take the first alone would be another cluster than kubectl's."""
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    with pytest.raises(ConfigError, match="does not merge") as caught:
        find_access(environ={"KUBECONFIG": f"{one}:{other}"})
    assert "kubectl config view --flatten" in str(caught.value)
    absent = tmp_path / "absent"
    assert find_access(environ={"KUBECONFIG": f"{absent}:{one}"}).namespace == "edge"


def test_a_token_is_read_again_now_and_then() -> None:
    texts, now = iter(["one", "two", "three"]), [0.0]
    token = Token(lambda: next(texts), clock=lambda: now[0])
    assert [token.text(), token.text()] == ["one", "one"]
    now[0] = TOKEN_LIFE
    assert token.text() == "two"
    assert token.text(renewed=True) == "three"


def test_a_token_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    access = read_kubeconfig(written(tmp_path / "config", user={"tokenFile": "token"}))
    (tmp_path / "token").unlink()
    assert access.token is not None
    with pytest.raises(StateError, match="token"):
        access.token.text()
