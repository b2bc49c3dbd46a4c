"""Listeners, and errors that say who is in the way."""

import os

import pytest

from raven.errors import ConfigError
from raven.net.listeners import address_of, open_listeners


async def test_a_port_of_the_systems_choice() -> None:
    listeners = await open_listeners("oam_listen", "127.0.0.1", 0)
    host, port = address_of(listeners)
    assert host == "127.0.0.1"
    assert port > 0
    for listener in listeners:
        await listener.aclose()


async def test_a_port_in_use_names_its_holder() -> None:
    (holder,) = await open_listeners("oam_listen", "127.0.0.1", 0)
    _, port = address_of([holder])
    with pytest.raises(ConfigError) as caught:
        await open_listeners("agents_listen", "127.0.0.1", port)
    assert str(caught.value).startswith(f"agents_listen 127.0.0.1:{port}: the port is in use; held by ")
    assert f"(pid {os.getpid()})" in str(caught.value)
    await holder.aclose()


async def test_an_address_of_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:80: no such address here; `ip address` lists them"):
        await open_listeners("agents_listen", "192.0.2.1", 80)


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(ConfigError, match=r"agents_listen nowhere\.invalid:80: cannot listen there"):
        await open_listeners("agents_listen", "nowhere.invalid", 80)
