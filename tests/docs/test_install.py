"""The pages to install and to migrate by: commands, options, files, keys and objects in them are real."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agent.main import cli as agent_cli
from agent.options import AgentOptions
from gateway.main import cli as gateway_cli
from gateway.options import GatewayOptions
from raven.cli.main import cli as ctl_cli
from raven.config import fields, load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("install-kubernetes.md", "migrate-from-openyurt.md")]
PAGES.append(ROOT / "docs" / "migrate-from-konnectivity.md")
OURS: dict[str, click.Command] = {
    "raven-agent": agent_cli,
    "raven-gateway": gateway_cli,
    "ravenctl": ctl_cli,
}
THEIRS = {"kubectl", "docker", "mkdir", "cp", "python3", "pip", "install", "systemctl"}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def _commands(page: Path) -> Iterator[list[str]]:
    """The indented commands of a page; what stands behind `--` of a kubectl exec is one of its own."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"^(?:    |       )(\S.*)$", prose, re.MULTILINE):
        words = shlex.split(line)
        if words[0].rpartition("/")[2] not in OURS.keys() | THEIRS:
            continue
        if "--" in words:
            yield words[words.index("--") + 1 :]
            words = words[: words.index("--")]
        yield words


def _snippets(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


@every_page
def test_every_command_of_ours_is_understood(page: Path) -> None:
    met = 0
    for words in _commands(page):
        command = OURS.get(words[0].rpartition("/")[2])
        if command is None:
            continue
        met += 1
        rest = words[1:]
        while isinstance(command, click.Group):
            context = click.Context(command)
            _, (name, *rest), _ = command.make_parser(context).parse_args(rest)  # options before the name
            command = command.get_command(context, name)
            assert command is not None, words
        command.make_context(words[0], rest)  # raises for what it does not know
    assert met


@every_page
def test_every_file_of_the_repository_exists(page: Path) -> None:
    for path in re.findall(r"(?<![\w/])(?:\.\./)?(deploy/[\w./@-]+)", page.read_text()):
        assert (ROOT / path.rstrip(".")).exists(), path


@every_page
def test_every_key_is_one(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    known = {field.key for kind in (GatewayOptions, AgentOptions) for field in fields(kind)}
    for key in re.findall(r"`([a-z_]+) = ", text):
        assert {key, f"kubernetes_{key}"} & known, key
    for snippet in _snippets(page, "toml"):
        assert tomllib.loads(snippet)
        (tmp_path / "gateway.toml").write_text(snippet)
        load(GatewayOptions, config=str(tmp_path / "gateway.toml"), given={})


def _yaml(page: Path) -> list[dict[str, Any]]:
    return [one for text in _snippets(page, "yaml") for one in yaml.safe_load_all(text)]


def _objects(page: Path) -> list[dict[str, Any]]:
    """Those that stand there whole; an addition to another one has no kind."""
    return [one for one in _yaml(page) if "kind" in one]


def test_the_overlay_replaces_what_the_base_has() -> None:
    (overlay,) = (one for one in _objects(PAGES[0]) if one["kind"] == "Kustomization")
    base = yaml.safe_load((ROOT / "deploy/kubernetes/base/kustomization.yaml").read_text())
    (generator,), (ours,) = overlay["configMapGenerator"], base["configMapGenerator"]
    assert (generator["name"], generator["namespace"]) == (ours["name"], ours["namespace"])
    assert overlay["images"][0]["name"] == base["images"][0]["name"]
    daemonset = yaml.safe_load((ROOT / "deploy/kubernetes/base/daemonset.yaml").read_text())
    (addition,) = (one for one in _yaml(PAGES[0]) if "patches" in one)
    (patch,) = addition["patches"]
    assert patch["target"]["name"] == daemonset["metadata"]["name"]
    (add,) = yaml.safe_load(patch["patch"])
    assert "nodeSelector" not in daemonset["spec"]["template"]["spec"], add


def test_the_gateways_fit_the_schema() -> None:
    crd = yaml.safe_load((ROOT / "deploy/kubernetes/crds/gateways.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    sites = [one for one in _objects(PAGES[0]) if one["kind"] == "Gateway"]
    assert len(sites) == 2
    for site in sites:
        assert site["spec"].keys() <= spec.keys()
        for part in ("proxyConfig", "tunnelConfig"):
            assert site["spec"].get(part, {}).keys() <= spec[part]["properties"].keys()
        for endpoint in site["spec"]["endpoints"]:
            assert endpoint.keys() <= spec["endpoints"]["items"]["properties"].keys()
