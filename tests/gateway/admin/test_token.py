import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.token import add_token, create_token, parse_ttl
from raven.errors import ConfigError, StateError
from raven.pki.token import parse_token_untrusted, secret_matches
from raven.registry.gateway_state import GatewayState, open_gateway
from raven.registry.sqlite import SqliteRegistry
from tests.pki.material import NOW, seeded


@pytest.fixture
def state(tmp_path: Path) -> GatewayState:
    opened = open_gateway(tmp_path / "state", hosts=[], now=NOW, random=seeded())
    SqliteRegistry(opened.registry, now=NOW).close()
    opened.close()
    return opened


def test_a_token_names_the_ca_and_is_stored_hashed(state: GatewayState) -> None:
    text = create_token(state.directory, now=NOW, random=seeded(5))
    token = parse_token_untrusted(text)
    assert token.pin == state.authority.pin
    with contextlib.closing(SqliteRegistry(state.registry, now=NOW, create=False)) as registry:
        (stored,) = registry.tokens()
        (line,) = registry.audit()
    assert (stored.id, stored.node, stored.reusable) == (token.id, None, False)
    assert (stored.created, stored.expires) == (NOW, NOW + 3600)
    assert secret_matches(token.secret, stored.secret_hash)
    assert (line.event, line.target) == ("token-created", token.id)
    for path in state.directory.iterdir():
        assert text.split(".")[2].encode() not in path.read_bytes()


def test_a_token_is_made_while_the_gateway_runs(state: GatewayState) -> None:
    running = open_gateway(state.directory, hosts=[], now=NOW)
    with contextlib.closing(SqliteRegistry(running.registry, now=NOW)) as registry:
        first = create_token(state.directory, node="shop-1", ttl=60, reusable=True, now=NOW)
        second = add_token(registry, running.authority.pin, now=NOW + 1)
        assert first != second
        assert [(t.node, t.expires, t.reusable) for t in registry.tokens()] == [
            (None, NOW + 3601, False),
            ("shop-1", NOW + 60, True),
        ]
    running.close()


def test_there_is_no_token_without_a_gateway(tmp_path: Path, state: GatewayState) -> None:
    with pytest.raises(StateError, match="no gateway's state here; `raven-gateway run` makes it"):
        create_token(tmp_path, now=NOW)
    assert not (tmp_path / "registry.sqlite").exists()
    state.registry.unlink()
    with pytest.raises(StateError, match="there is no registry here"):
        create_token(state.directory, now=NOW)


@pytest.mark.parametrize("node", ["", "Shop", "a/b", "a" * 300])
def test_a_token_is_for_a_node_that_can_exist(state: GatewayState, node: str) -> None:
    with pytest.raises(ConfigError, match="--node"):
        create_token(state.directory, node=node, now=NOW)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800), ("366d", 31_622_400)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_ttl(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "1", "h", "0s", "-1h", "1.5h", "1H", "1 h", "1h ", "٣h", "367d", "9" * 9 + "d"]
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--ttl"):
        parse_ttl(text)


@given(st.text(max_size=12))
def test_any_text_is_a_time_or_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_ttl(text) > 0
