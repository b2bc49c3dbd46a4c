"""deploy/helm is deploy/kubernetes by another program: compared object by object, and really installed."""

import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.options import GatewayOptions
from raven.config import load
from tests.authority import Authority
from tests.e2e_kube import binaries
from tests.e2e_kube.binaries import tool
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer, ControlPlane
from tests.e2e_kube.manifests import MANIFESTS, SERVICE_MONITORS
from tests.lab.world import World

CHART = MANIFESTS.parent / "helm" / "raven"
NAMESPACE = ("--namespace", "raven-system")
# By which a thing is made: kustomize says what is one, and Helm what it leaves in place.
MARKS = {"labels": "app.kubernetes.io/part-of", "annotations": "helm.sh/resource-policy"}
SAME = {
    "both lanes": ("", "1.30.0", {}),
    "streams alone": ("streams-only", "1.30.0", {"streamsOnly": True}),
    "an older cluster": ("kubernetes-1.20", "1.20.0", {}),
}


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def chart(values: dict[str, Any], version: str = "1.30.0") -> list[dict[str, Any]]:
    command = ("template", "raven", str(CHART), *NAMESPACE, "--kube-version", version)
    rendered = run(tool("helm"), *command, "--values", "-", text=json.dumps(values))
    return [one for one in yaml.safe_load_all(rendered) if one is not None]


def kustomization(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(run(tool("kubectl"), "kustomize", str(MANIFESTS / overlay))))


def plain(objects: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By kind, namespace and name, without what only tells which program made it."""
    found = {}
    for one in objects:
        meta = one["metadata"]
        for kind, mark in MARKS.items():
            meta.get(kind, {}).pop(mark, None)
            if not meta.get(kind, True):
                del meta[kind]
        if one["kind"] == "ConfigMap":
            meta["name"] = "raven-gateway"  # kustomize appends a digest of what is in it
            one["files"] = one["data"]  # beside the configuration
            one["data"] = {"gateway.toml": tomllib.loads(one["files"].pop("gateway.toml"))}
        if one["kind"] == "DaemonSet":
            template = one["spec"]["template"]
            template["metadata"].pop("annotations", None)  # the chart's digest of the ConfigMap
            for volume in template["spec"]["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["name"] = "raven-gateway"
        found[one["kind"], meta.get("namespace", ""), meta["name"]] = one
    return found


@pytest.mark.parametrize(("overlay", "version", "values"), SAME.values(), ids=SAME)
def test_the_chart_is_the_kustomization(overlay: str, version: str, values: dict[str, Any]) -> None:
    wanted, made = plain(kustomization(overlay)), plain(chart(values, version))
    del wanted["Namespace", "", "raven-system"]  # Helm makes the namespace it installs into
    assert made.keys() == wanted.keys()
    for key, one in wanted.items():
        assert made[key] == one, key


@pytest.mark.parametrize(
    ("overlay", "value"), [("monitoring", "monitoring"), ("bootstrap-tokens", "bootstrapTokens")]
)
def test_a_value_adds_what_an_overlay_has(overlay: str, value: str) -> None:
    base, more = plain(chart({})), plain(chart({value: True}))
    assert {key: more[key] for key in more.keys() - base.keys()} == plain(kustomization(overlay))


def test_numbers_of_a_values_file_are_what_a_gateway_takes(tmp_path: Path) -> None:
    """Helm has no whole numbers there."""
    (config,) = (one for one in chart({"gateway": {"oam_each_max": 64}}) if one["kind"] == "ConfigMap")
    (tmp_path / "gateway.toml").write_text(config["data"]["gateway.toml"])
    options = load(GatewayOptions, config=str(tmp_path / "gateway.toml"), given={})
    assert options.oam_each_max == 64


def test_files_come_to_the_gateway() -> None:
    """A policy, a CA that is no secret, and keys, where the configuration says that they are."""
    policy = '[[permit]]\nwho = ["cert:admin"]\ntargets = ["*:*"]\n'
    made = plain(chart({"files": {"policy.toml": policy}, "secretName": "raven-keys"}))
    assert made["ConfigMap", "raven-system", "raven-gateway"]["files"] == {"policy.toml": policy}
    pod = made["DaemonSet", "raven-system", "raven-gateway"]["spec"]["template"]["spec"]
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert (mounts["config"], volumes["config"]["configMap"]["name"]) == ("/etc/raven", "raven-gateway")
    assert (mounts["secret"], volumes["secret"]["secret"]["secretName"]) == (
        "/etc/raven-secret",
        "raven-keys",
    )


def test_a_changed_file_replaces_the_pods() -> None:
    def template(text: str) -> Any:
        (one,) = (one for one in chart({"files": {"policy.toml": text}}) if one["kind"] == "DaemonSet")
        return one["spec"]["template"]["metadata"]["annotations"]

    assert template("one") != template("other")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"gateway": {"advertise": "gateway.example.com"}}, "advertise"),
        ({"streamOnly": True}, "streamOnly"),
        ({"image": {"repository": ""}}, "repository"),
        ({"files": {"gateway.toml": ""}}, "gateway.toml"),
        ({"files": {"../etc": ""}}, "../etc"),
    ],
)
def test_a_value_that_cannot_be_is_named(values: dict[str, Any], told: str) -> None:
    command = (tool("helm"), "template", "raven", str(CHART), *NAMESPACE, "--values", "-")
    done = subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert told in done.stderr


def test_another_namespace_is_refused_with_the_reason() -> None:
    command = (tool("helm"), "template", "raven", str(CHART), "--namespace", "default")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "--namespace raven-system" in done.stderr


@pytest.fixture
def empty() -> Iterator[ApiServer]:
    """An API server alone, where nobody has applied anything that Helm would not call its own."""
    if reason := binaries.missing():
        pytest.skip(reason)
    with World(sites=()) as world:
        authority = Authority(world.directory / "pki", "lab-ca")
        yield ControlPlane(world.cloud, binaries.find(), authority).start(managers=False)


def test_the_server_admits_the_chart_with_everything_on(cluster: Cluster) -> None:
    cluster.server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "raven-system"}})
    cluster.server.kubectl("apply", "-f", "-", text=SERVICE_MONITORS)
    cluster.server.kubectl("wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com")
    version = f"1.{cluster.binaries.minor}.0"
    more = {"files": {"policy.toml": "permit = []\n"}, "secretName": "raven-keys"}
    objects = chart({"monitoring": True, "bootstrapTokens": True, **more}, version)
    text = yaml.safe_dump_all(objects)
    dry = ("apply", "--dry-run=server", "--validate=false", "-f", "-")
    admitted = cluster.server.kubectl(*dry, text=text, check=False)
    assert admitted.code == 0, admitted.err


def test_helm_installs_upgrades_and_removes_it(empty: ApiServer) -> None:
    config = ("--kubeconfig", str(empty.kubeconfig), *NAMESPACE)

    def do(*command: str) -> str:
        done = empty.machine.run(tool("helm"), *command, *config, seconds=120, check=False)
        assert done.code == 0, done.err
        return done.out

    told = do("install", "raven", str(CHART), "--create-namespace", "--wait=hookOnly")
    assert "rollout status daemonset/raven-gateway" in told
    get = ("-n", "raven-system", "get", "daemonset", "raven-gateway", "-o")
    before = empty.kubectl(*get, "jsonpath={.spec.template.metadata.annotations}").out
    do("upgrade", "raven", str(CHART), "--set", "gateway.advertise=gw.example.org:443", "--wait=hookOnly")
    after = empty.kubectl(*get, "jsonpath={.spec.template.metadata.annotations}").out
    assert before != after, "a changed configuration replaces the pods"
    do("uninstall", "raven")
    assert empty.kubectl(*get, "name", check=False).code != 0
    # The sites stay: they would go with their CRD.
    assert empty.kubectl("get", "crd", "gateways.raven.openyurt.io", check=False).code == 0
