"""From HOST:PORT of the map to an address a device takes."""

import pytest

from agent.hub_endpoint import HubEndpoint, NoEndpoint


@pytest.mark.parametrize("text", ["192.0.2.1:4500", "[2001:db8::1]:4500"])
async def test_a_numeric_endpoint_is_itself_every_time(text: str) -> None:
    endpoint = HubEndpoint(text)
    assert [await endpoint.advance(), await endpoint.advance(), endpoint.current] == [text] * 3


async def test_a_name_is_resolved_and_its_addresses_take_turns() -> None:
    endpoint = HubEndpoint("localhost:4500")
    turns = [await endpoint.advance() for _ in range(4)]
    assert set(turns) <= {"127.0.0.1:4500", "[::1]:4500"}
    assert turns[:2] == turns[2:]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "tells no address"),
        ("gateway.invalid:4500", "gateway.invalid cannot be resolved"),
        ("gateway", "no port"),
        ("a..b:4500", "cannot be resolved"),
    ],
)
async def test_what_cannot_be_dialled_is_a_sentence(text: str, why: str) -> None:
    with pytest.raises(NoEndpoint, match=why):
        await HubEndpoint(text).advance()
