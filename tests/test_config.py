"""Options: precedence, and errors that name the place, the value and what would have been right."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from agent.options import AgentOptions
from gateway.options import GatewayOptions
from raven.config import Address, Lead, fields, flags, load, parse_dial, reference
from raven.errors import ConfigError


def _file(directory: Path, text: str) -> str:
    path = directory / "raven.toml"
    path.write_text(text)
    return str(path)


def test_flag_beats_file_and_file_beats_default(tmp_path: Path) -> None:
    file = _file(tmp_path, 'drain_seconds = 3\nlog_level = "debug"\nno_packets = true\n')
    options = load(AgentOptions, config=file, given={"drain_seconds": "7", "no_packets": False})
    assert (options.drain_seconds, options.log_level, options.no_packets) == (7.0, "debug", False)
    assert options.socket == Path("/run/raven/agent.sock")
    assert load(AgentOptions, given={"allow": (), "log_level": None}) == AgentOptions()


def test_file_holds_every_type(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        'agents_listen = "[::1]:443"\nmetrics_listen = "off"\npod_cidr = ["10.1.0.0/24", "fd00:1::/64"]\n'
        'advertise = "gw.example.com:443"\nstate_dir = "/srv/raven"\ndrain_seconds = 0.5\n',
    )
    options = load(GatewayOptions, config=file, given={})
    assert options.agents_listen == Address("::1", 443)
    assert options.metrics_listen is None
    assert options.pod_cidr == ("10.1.0.0/24", "fd00:1::/64")
    assert options.advertise == Address("gw.example.com", 443)
    assert options.state_dir == Path("/srv/raven")
    assert options.drain_seconds == 0.5


def test_a_whole_number_may_be_written_as_helm_does(tmp_path: Path) -> None:
    file = _file(tmp_path, "oam_each_max = 64.0\noam_connections_max = 1e+06\n")
    options = load(GatewayOptions, config=file, given={})
    assert (options.oam_each_max, type(options.oam_each_max)) == (64, int)
    assert options.oam_connections_max == 1_000_000


MISTAKES = {
    "wg_port = 4500.5": "wg_port = 4500.5: expected a port from 0 to 65535",
    'drain_seconds = "ten"': 'drain_seconds = "ten": expected a number of seconds from 0 to 3600',
    "drain_seconds = -1": "drain_seconds = -1: expected a number of seconds from 0 to 3600",
    'log_level = "loud"': 'log_level = "loud": expected debug, info, warning or error',
    'no_packets = "yes"': 'no_packets = "yes": expected true or false',
    "drain_second = 1": "drain_second: there is no such key; did you mean drain_seconds?",
    "zzz = []": "zzz: there is no such key; expected one of ",
    'allow = "node:1"': 'allow = "node:1": expected rules, as in ',
    "pod_cidr = [10]": "pod_cidr = [10]: expected networks, as in ",
    'pod_cidr = ["10.1.0.1/24"]': "did you mean 10.1.0.0/24?",
    'metrics_listen = "localhost"': "it has no port from 0 to 65535 after a colon",
    'metrics_listen = "::1:443"': "an IPv6 address stands in brackets, as in [::1]:443",
    'metrics_listen = ":443"': "the host is missing; *:PORT means every address",
    "metrics_listen = 443": "metrics_listen = 443: expected an address to listen on",
    'gateway = ["*:443"]': "others dial it, so it needs a host and a port",
    "wg_port = 70000": "wg_port = 70000: expected a port from 0 to 65535",
    'wg_interface = "far-too-long-a-name"': "expected an interface name of 1 to 15 characters",
    "x = [": "expected TOML, as in",
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    file = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(AgentOptions, config=file, given={})
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    file = _file(tmp_path, 'drain_seconds = "ten"\nwrong = 1\n')
    with pytest.raises(ConfigError) as caught:
        load(AgentOptions, config=file, given={"log_level": "loud"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[2] == "--log-level loud: expected debug, info, warning or error"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; expected a readable TOML file"):
        load(AgentOptions, config=str(tmp_path / "absent.toml"), given={})
    with pytest.raises(ConfigError, match="Is a directory"):
        load(AgentOptions, config=str(tmp_path), given={})
    (tmp_path / "binary").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="byte 4 is not UTF-8"):
        load(AgentOptions, config=str(tmp_path / "binary"), given={})


def _run(arguments: list[str]) -> AgentOptions:
    """The options that a command with these arguments gets."""
    seen: list[AgentOptions] = []

    @click.command()
    @flags(AgentOptions)
    def command(config: str | None, **given: Any) -> None:
        seen.append(load(AgentOptions, config=config, given=given))

    result = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_flags_reach_the_struct(tmp_path: Path) -> None:
    options = _run(
        ["--allow", "node:1", "--allow", "10.0.0.0/8:2-3", "--metrics-listen", "off", "--no-packets"]
    )
    assert list(map(str, options.allow)) == ["node:1", "10.0.0.0/8:2-3"]
    assert options.metrics_listen is None
    assert options.no_packets
    file = _file(tmp_path, "no_packets = true")
    assert not _run(["--config", file, "--packets"]).no_packets


@pytest.mark.parametrize("kind", [GatewayOptions, AgentOptions])
def test_every_default_could_be_written_as_a_flag(kind: type[GatewayOptions | AgentOptions]) -> None:
    for field in fields(kind):
        if field.default_text and field.type is not bool and not field.many:
            given = {field.key: field.default_text}
            assert getattr(load(kind, given=given), field.key) == field.default, field.key


@pytest.mark.parametrize("kind", [GatewayOptions, AgentOptions])
def test_help_is_prose(kind: type[GatewayOptions | AgentOptions]) -> None:
    for field in fields(kind):
        assert field.option.help[0].isupper(), field.key
        assert field.option.help.endswith("."), field.key
        assert field.option.expected, field.key


DOCUMENT = Path(__file__).parent.parent / "docs" / "operations.md"


def _documented(text: str) -> str:
    """The document with the tables of options as they are now."""
    for name, kind in (("raven-gateway", GatewayOptions), ("raven-agent", AgentOptions)):
        opening, closing = f"<!-- options of {name} run -->\n", f"<!-- end of {name} run -->\n"
        before, _, rest = text.partition(opening)
        _, _, after = rest.partition(closing)
        text = f"{before}{opening}{reference(kind)}{closing}{after}"
    return text


def test_the_documentation_lists_every_option() -> None:
    text = DOCUMENT.read_text()
    assert _documented(text) == text, "docs/operations.md is stale: `python -m tests.test_config` renews it"


def test_addresses() -> None:
    assert str(Address.parse("[fd00::1]:443")) == "[fd00::1]:443"
    assert Address.parse("*:0") == Address("", 0)
    assert str(Address("", 10262)) == "*:10262"
    for text in ("1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "[::1:443", "[x]:1", "1.2.3.4:٣"):
        with pytest.raises(ValueError, match=r"."):
            Address.parse(text)
    with pytest.raises(ValueError, match="needs a host and a port"):
        parse_dial("gw:0")


def test_a_lead_is_an_address_and_the_port_of_a_node() -> None:
    assert Lead.parse("0.0.0.0:10263") == Lead(Address("0.0.0.0", 10263), 10250)
    assert Lead.parse("[::1]:9445=9445") == Lead(Address("::1", 9445), 9445)
    for text in ("0.0.0.0:10263", "[::1]:9445=9445"):
        assert str(Lead.parse(text)) == text
    for text in ("10263", "*:10263=", "*:10263=0", "*:10263=65536", "*:10263=a", "*:=1"):
        with pytest.raises(ValueError, match=r"port|host"):
            Lead.parse(text)


if __name__ == "__main__":
    DOCUMENT.write_text(_documented(DOCUMENT.read_text()))
