"""The codec: round trips, every key, every kind of error with its errno, and hostile text."""

import contextlib
import errno
import ipaddress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import (
    NO_SUPERFRAMES,
    DeviceChange,
    DeviceState,
    IPNetwork,
    PeerChange,
    PeerState,
    SuperframeCipher,
    UapiError,
)
from raven.wg.endpoint import Endpoint
from raven.wg.uapi import format_set, parse_set_untrusted
from raven.wg.uapi_answers import parse_get_untrusted

KEY_HEX = bytes(range(32)).hex()
KEY = PublicKey(bytes(range(32)))

keys32 = st.binary(min_size=32, max_size=32)
networks: st.SearchStrategy[IPNetwork] = st.one_of(
    st.builds(
        lambda n, p: ipaddress.IPv4Network((n, p), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda n, p: ipaddress.IPv6Network((n, p), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)
ports = st.integers(0, 65535)
endpoints = st.one_of(
    st.builds(lambda a, p: Endpoint(str(a), p), st.ip_addresses(v=4), ports),
    st.builds(
        lambda a, p, s: Endpoint(str(a).split("%")[0], p, s), st.ip_addresses(v=6), ports, st.integers(0, 9)
    ),
)
network_lists = st.lists(networks, max_size=5, unique=True)
peer_changes = st.builds(
    lambda added, removed, **rest: PeerChange(
        allowed_ips=added, removed_allowed_ips=[n for n in removed if n not in added], **rest
    ),
    added=network_lists,
    removed=network_lists,
    public_key=keys32.map(PublicKey),
    remove=st.booleans(),
    update_only=st.booleans(),
    preshared_key=st.none() | keys32.map(PresharedKey),
    endpoint=st.none() | endpoints,
    keepalive=st.none() | st.integers(0, 65535),
    replace_allowed_ips=st.booleans(),
    probes=st.none() | st.booleans(),
    rekey=st.booleans(),
    superframes=st.sampled_from([None, NO_SUPERFRAMES, *SuperframeCipher]),
)
device_changes = st.builds(
    DeviceChange,
    private_key=st.none() | keys32.map(PrivateKey),
    listen_port=st.none() | ports,
    fwmark=st.none() | st.integers(0, 2**32 - 1),
    replace_peers=st.booleans(),
    peers=st.lists(peer_changes, max_size=4),
)
peer_states = st.builds(
    PeerState,
    public_key=keys32.map(PublicKey),
    preshared_key=keys32.map(PresharedKey),
    endpoint=st.none() | endpoints,
    last_handshake=st.integers(0, 2**31).map(float) | st.just(1_700_000_000.25),
    rx_bytes=st.integers(0, 2**63),
    tx_bytes=st.integers(0, 2**63),
    keepalive=st.integers(0, 65535),
    allowed_ips=network_lists,
)
device_states = st.builds(
    DeviceState,
    private_key=keys32.map(PrivateKey),
    listen_port=ports,
    fwmark=st.integers(0, 2**32 - 1),
    peers=st.lists(peer_states, max_size=4),
)


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
