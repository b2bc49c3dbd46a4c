"""The systemd units: systemd finds no fault in them, and they start what the packages install."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from agent.options import AgentOptions
from gateway.options import GatewayOptions
from raven.config import load

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as on a machine where /opt/raven exists: systemd looks whether the programs are there."""
    for name in ("raven-agent", "raven-gateway", "raven-wg"):
        (tmp_path / name).touch(mode=0o755)
    for unit in UNITS.glob("*.service"):
        text = unit.read_text().replace("/opt/raven/bin", str(tmp_path))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_systemd
def test_systemd_finds_no_fault(installed: Path) -> None:
    units = [str(installed / name).replace("@.", "@raven0.") for name in SERVICES]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if str(installed) in line or "raven" in line]
    assert complaints == []


@needs_systemd
@pytest.mark.parametrize(
    ("service", "most"),
    [
        ("raven-agent.service", 3.0),
        ("raven-agent-streams.service", 2.0),
        ("raven-gateway.service", 3.0),
        ("raven-wg@.service", 2.2),
    ],
)
def test_exposure(installed: Path, service: str, most: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(installed / service)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) <= most


def test_what_may_make_no_namespace_has_the_offloads_tried_before() -> None:
    for name in SERVICES:
        text = (UNITS / name).read_text()
        assert "\nRestrictNamespaces=yes\n" in text
        tries = "\nExecStartPre=-+/opt/raven/bin/raven-wg --try-offloads\nExecStart=" in text
        assert tries == ("/dev/net/tun" in text), name
        assert not tries or re.search(r"^RuntimeDirectory=.*\bwireguard\b", text, re.MULTILINE)


def test_the_example_configurations_load() -> None:
    assert load(AgentOptions, config=str(UNITS / "agent.toml"), given={}) == AgentOptions()
    assert load(GatewayOptions, config=str(UNITS / "gateway.toml"), given={}).agents_listen.port == 443


def test_the_configuration_for_kubernetes_loads() -> None:
    """With everything that a cluster needs; the Service it names is one of the base."""
    base = UNITS.parent / "kubernetes" / "base"
    options = load(GatewayOptions, config=str(base / "gateway.toml"), given={})
    assert options.kubernetes_enabled
    assert options.pod_range
    assert options.names_listen
    services = [one["metadata"]["name"] for one in yaml.safe_load_all((base / "services.yaml").read_text())]
    assert options.kubernetes_service in services


def test_control_planes_come_in_where_network_policies_count() -> None:
    """They are no pods, so nothing that a policy selects: these two ports are open to everybody."""
    base = UNITS.parent / "kubernetes" / "base"
    options = load(GatewayOptions, config=str(base / "gateway.toml"), given={})
    policy = yaml.safe_load((base / "network-policy.yaml").read_text())
    rules = policy["spec"]["ingress"]
    opened = {one["port"] for rule in rules if "from" not in rule for one in rule["ports"]}
    assert options.oam_tls_listen is not None
    kubelets = {one.address.port for one in options.names_listen if one.port == 10250}
    assert kubelets | {options.oam_tls_listen.port} <= opened
    assert options.oam_listen.port not in opened


def test_the_examples_in_comments_load_as_well(tmp_path: Path) -> None:
    for name, kind in (("agent.toml", AgentOptions), ("gateway.toml", GatewayOptions)):
        text = re.sub(r"^# (\w+ = )", r"\1", (UNITS / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
        assert load(kind, config=str(tmp_path / name), given={}) != kind() or name == "gateway.toml"
