"""Changes and states of devices, as hypothesis makes them."""

import ipaddress

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
)
from raven.wg.endpoint import Endpoint

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
