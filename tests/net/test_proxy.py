"""Which proxy stands on the way: the option, the environment, and what NO_PROXY exempts."""

import base64

import pytest

from agent.options import AgentOptions
from raven.config import load
from raven.errors import ConfigError
from raven.net.proxy import DIRECT, Proxy, Ways, find_ways, parse_proxy


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://proxy.corp:3128", "proxy.corp", 3128),
        ("proxy.corp:3128", "proxy.corp", 3128),
        ("http://proxy.corp/", "proxy.corp", 80),
        ("http://[fd00::1]:8080", "fd00::1", 8080),
    ],
)
def test_a_proxy_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert Proxy.parse(text) == Proxy(host, port)


def test_user_and_password_become_the_header_and_show_nowhere() -> None:
    proxy = Proxy.parse("http://me%40corp:hunter%3A2@proxy:3128")
    coded = proxy.authorization.removeprefix("Basic ")
    assert base64.b64decode(coded) == b"me@corp:hunter:2"
    for shown in (repr(proxy), str(proxy), repr(Ways(proxy)), repr(AgentOptions(proxy=proxy))):
        assert "hunter" not in shown
        assert coded not in shown
    assert str(Proxy.parse("http://[fd00::1]:1")) == "[fd00::1]:1"


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hunter2@proxy:3128",
        "socks5://me:hunter2@proxy:1080",
        "http://me:hunter2@proxy:99999",
        "http://me:hunter2@",
        "http://me:hunter2@[::1",
        "http://me:hunter2@proxy:3128/path",
        "http://me:hunter2@proxy:3128\r\nX-Header: y",
        "http://me:hunter2@pro℀xy:3128",
        "http://" + "hunter2" * 1000,
    ],
)
def test_what_is_no_proxy_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_proxy(text)
    assert "hunter2" not in str(caught.value)
    for given in ({"HTTPS_PROXY": text}, {"https_proxy": text}):
        with pytest.raises(ConfigError, match=r"(?i)https_proxy") as wrong:
            find_ways(None, given)
        assert "hunter2" not in str(wrong.value)


def test_errors_of_the_option_hide_its_value(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("config") / "agent.toml"
    file.write_text('proxy = "https://me:hunter2@proxy:1"\n')
    for config, given in ((str(file), {}), (None, {"proxy": "https://me:hunter2@proxy:1"})):
        with pytest.raises(ConfigError, match=r"\(hidden\): expected http://HOST:PORT") as caught:
            load(AgentOptions, config=config, given=given)
        assert "hunter2" not in str(caught.value)


def test_the_option_beats_the_environment_and_off_beats_both() -> None:
    environment = {"HTTPS_PROXY": "http://big:1", "https_proxy": "http://small:2", "NO_PROXY": "x.y"}
    assert find_ways(None, environment) == Ways(Proxy("small", 2), ("x.y",))
    assert find_ways(None, {"HTTPS_PROXY": "http://big:1"}) == Ways(Proxy("big", 1))
    assert find_ways(Proxy("own", 3), environment) == Ways(Proxy("own", 3), ("x.y",))
    assert find_ways("off", environment) == DIRECT
    assert find_ways(None, {}) == DIRECT
    assert find_ways(None, {"https_proxy": "", "HTTPS_PROXY": "big:1"}) == Ways(Proxy("big", 1))


@pytest.mark.parametrize(
    ("rules", "exempt", "proxied"),
    [
        ("*", ["gw.example.com", "192.0.2.1"], []),
        (
            "example.com",
            ["example.com", "gw.example.com", "GW.EXAMPLE.COM"],
            ["badexample.com", "example.org"],
        ),
        (".example.com", ["gw.example.com"], ["badexample.com"]),
        ("*.example.com", ["gw.example.com"], ["badexample.com"]),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.10", "gw.example.com"]),
        ("10.0.0.0/8 fd00::/8", ["10.1.2.3", "fd12::1"], ["11.0.0.1", "fe80::1"]),
        ("gw.example.com:443,other:80", ["gw.example.com"], ["other"]),
        ("192.0.2.1:443,[fd00::1]:443", ["192.0.2.1", "fd00::1"], ["192.0.2.2"]),
        ("[fd00::1]", ["fd00::1"], ["fd00::2"]),
        (", ,:443,...", [], ["gw.example.com", "192.0.2.1"]),
    ],
)
def test_no_proxy_as_others_read_it(rules: str, exempt: list[str], proxied: list[str]) -> None:
    ways = find_ways(Proxy("p", 1), {"NO_PROXY": rules})
    assert [ways.proxy_for(host, 443) for host in exempt] == [None] * len(exempt)
    assert [ways.proxy_for(host, 443) for host in proxied] == [Proxy("p", 1)] * len(proxied)
