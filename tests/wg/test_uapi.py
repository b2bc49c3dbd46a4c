"""The codec: round trips, every key, every kind of error with its errno, and hostile text."""

import contextlib
import errno
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.wg.configuration import DeviceChange, PeerChange, UapiError
from raven.wg.endpoint import Endpoint
from raven.wg.uapi import format_set, parse_set_untrusted
from raven.wg.uapi_answers import parse_get_untrusted
from tests.wg.configurations import KEY, KEY_HEX, device_changes


@given(device_changes)
def test_set_round_trip(change: DeviceChange) -> None:
    text = format_set(change)
    assert text.startswith("set=1\n")
    assert text.endswith("\n\n")
    assert "\n\n" not in text[:-2]
    parsed = parse_set_untrusted(text.splitlines()[1:])
    assert parsed == DeviceChange(
        private_key=change.private_key,
        listen_port=change.listen_port,
        fwmark=change.fwmark,
        replace_peers=change.replace_peers,
        peers=list(change.peers),
    )


def test_what_wg_sends() -> None:
    """The request of `wg setconf`, as wireguard-tools' ipc-uapi.h prints it."""
    change = parse_set_untrusted(
        [
            f"private_key={KEY_HEX}",
            "listen_port=51820",
            "fwmark=0",
            "replace_peers=true",
            f"public_key={KEY_HEX}",
            f"preshared_key={'00' * 32}",
            "endpoint=[2607:5300:60:6b0::c05f:543]:2468",
            "persistent_keepalive_interval=25",
            "replace_allowed_ips=true",
            "allowed_ip=10.1.2.3/24",
            "allowed_ip=fd00::1/128",
            "",
            "ignored, the request ended above",
        ]
    )
    peer = change.peers[0]
    assert change.replace_peers
    assert peer.endpoint == Endpoint("2607:5300:60:6b0::c05f:543", 2468)
    assert [str(n) for n in peer.allowed_ips] == ["10.1.2.0/24", "fd00::1/128"]


def test_the_last_mention_of_a_network_decides() -> None:
    def networks_of(*lines: str) -> tuple[list[str], list[str]]:
        peer = parse_set_untrusted([f"public_key={KEY_HEX}", *lines]).peers[0]
        return [str(n) for n in peer.allowed_ips], [str(n) for n in peer.removed_allowed_ips]

    assert networks_of("allowed_ip=10.0.0.0/8", "allowed_ip=-10.0.0.0/8") == ([], ["10.0.0.0/8"])
    assert networks_of("allowed_ip=-10.0.0.0/8", "allowed_ip=10.0.0.0/8") == (["10.0.0.0/8"], [])
    assert networks_of("allowed_ip=10.0.0.0/8", "replace_allowed_ips=true") == ([], [])


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("private_key=12", errno.EINVAL),
        ("private_key=" + "g" * 64, errno.EINVAL),
        ("private_key=" + " 1" * 32, errno.EINVAL),
        ("listen_port=65536", errno.EINVAL),
        ("listen_port=-1", errno.EINVAL),
        ("listen_port=1_0", errno.EINVAL),
        ("listen_port=\u0661", errno.EINVAL),
        ("listen_port=", errno.EINVAL),
        ("listen_port=" + "9" * 5000, errno.EINVAL),
        ("fwmark=4294967296", errno.EINVAL),
        ("fwmark=0x10", errno.EINVAL),
        ("replace_peers=false", errno.EINVAL),
        ("remove=true", errno.EINVAL),
        ("nonsense=1", errno.EINVAL),
        ("nonsense", errno.EPROTO),
        (f"public_key={KEY_HEX}\npreshared_key=00", errno.EINVAL),
        (f"public_key={KEY_HEX}\nraven_superframes=rot13", errno.EINVAL),
        ("raven_superframes=off", errno.EINVAL),
        (f"public_key={KEY_HEX}\nendpoint=example.org:1", errno.EINVAL),
        (f"public_key={KEY_HEX}\nendpoint=192.0.2.1", errno.EINVAL),
        (f"public_key={KEY_HEX}\nendpoint=192.0.2.1:70000", errno.EINVAL),
        (f"public_key={KEY_HEX}\nendpoint=2001:db8::1:5", errno.EINVAL),
        (f"public_key={KEY_HEX}\nendpoint=[192.0.2.1]:5", errno.EINVAL),
        (f"public_key={KEY_HEX}\nendpoint=[fe80::1%eth0]:5", errno.EINVAL),
        (f"public_key={KEY_HEX}\nallowed_ip=10.0.0.0/33", errno.EINVAL),
        (f"public_key={KEY_HEX}\nallowed_ip=", errno.EINVAL),
        (f"public_key={KEY_HEX}\nallowed_ip=10.0.0.1", errno.EINVAL),
        (f"public_key={KEY_HEX}\nallowed_ip=10.0.0.0/255.0.0.0", errno.EINVAL),
        (f"public_key={KEY_HEX}\nallowed_ip=fe80::1%1/64", errno.EINVAL),
        (f"public_key={KEY_HEX}\nallowed_ip=--10.0.0.0/8", errno.EINVAL),
        (f"public_key={KEY_HEX}\nprotocol_version=2", errno.EINVAL),
        (f"public_key={KEY_HEX}\npersistent_keepalive_interval=off", errno.EINVAL),
        (f"public_key={KEY_HEX}\nupdate_only=yes", errno.EINVAL),
        (f"public_key={KEY_HEX}\nlisten_port=1", errno.EINVAL),
    ],
)
def test_errors(line: str, number: int) -> None:
    with pytest.raises(UapiError) as info:
        parse_set_untrusted(line.split("\n"))
    assert info.value.errno == number
    assert len(str(info.value)) < 200


def test_an_error_shows_no_secret() -> None:
    almost = KEY_HEX[:-1]
    for line in (f"private_key={almost}", f"public_key={KEY_HEX}\npreshared_key={almost}"):
        with pytest.raises(UapiError) as info:
            parse_set_untrusted(line.split("\n"))
        assert almost[:20] not in str(info.value)


@given(st.text(max_size=200), st.integers(0, 1000))
def test_random_text_is_refused_or_read(text: str, seed: int) -> None:
    valid = format_set(
        DeviceChange(
            fwmark=1, peers=[PeerChange(public_key=KEY, endpoint=Endpoint("192.0.2.1", 1), keepalive=5)]
        )
    )
    random = Random(seed)
    mutated = list(valid)
    for _ in range(random.randrange(4)):
        mutated[random.randrange(len(mutated))] = chr(random.randrange(300))
    for candidate in (text, "".join(mutated)):
        with contextlib.suppress(UapiError):
            parse_set_untrusted(candidate.split("\n"))
        with contextlib.suppress(UapiError):
            parse_get_untrusted(candidate)
