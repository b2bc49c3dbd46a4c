"""Answers: round trips, unknown keys, errors with their errno, and answers that stop."""

import contextlib
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.keys import PublicKey
from raven.wg.configuration import (
    NO_SUPERFRAMES,
    DeviceState,
    PeerState,
    PeerStatus,
    Status,
    SuperframeCipher,
    UapiError,
)
from raven.wg.uapi_answers import (
    format_counters,
    format_errno,
    format_get,
    format_status,
    parse_counters_untrusted,
    parse_errno_untrusted,
    parse_get_untrusted,
    parse_status_untrusted,
)
from tests.wg.configurations import KEY, KEY_HEX, device_states, keys32

sizes = st.integers(0, 65535)


@given(device_states)
def test_get_round_trip(state: DeviceState) -> None:
    text = format_get(state)
    assert text.endswith("errno=0\n\n")
    assert parse_get_untrusted(text) == state


def test_answers_with_errno() -> None:
    parse_errno_untrusted(format_errno(0))
    for text in (format_errno(errno.EADDRINUSE), "listen_port=1\nerrno=98\n\n", "errno=-98\n\n"):
        for parse in (parse_errno_untrusted, parse_get_untrusted, parse_counters_untrusted):
            if parse is parse_counters_untrusted and "listen" in text:
                continue
            with pytest.raises(UapiError) as info:
                parse(text)
            assert info.value.errno == errno.EADDRINUSE


def test_an_answer_that_stops_is_an_error() -> None:
    text = format_get(DeviceState(listen_port=5, peers=[PeerState(public_key=KEY)]))
    for end in range(text.index("errno=0") + len("errno=")):
        with pytest.raises(UapiError):
            parse_get_untrusted(text[:end])


def test_unknown_keys_of_other_devices_are_skipped() -> None:
    state = parse_get_untrusted(f"color=blue\npublic_key={KEY_HEX}\nmood=good\nerrno=0\n\n")
    assert state.peers == [PeerState(public_key=KEY, allowed_ips=[])]


def test_counters() -> None:
    assert parse_counters_untrusted(format_counters({"mac1": 3, "replayed": 0})) == {"mac1": 3, "replayed": 0}
    assert parse_counters_untrusted(format_counters({})) == {}


@given(
    status=st.builds(
        Status,
        mtu=sizes,
        offloads=st.dictionaries(
            st.sampled_from(["udp_send", "tun_tcp"]), st.sampled_from(["", "the kernel refuses it"])
        ),
        superframe_ciphers=st.sampled_from([(), ("aes256gcm", "chacha20poly1305")]),
        peers=st.dictionaries(
            keys32.map(PublicKey),
            st.builds(
                PeerStatus,
                mtu=sizes,
                proven_mtu=sizes,
                probes=st.booleans(),
                superframes=st.sampled_from([NO_SUPERFRAMES, *map(str, SuperframeCipher)]),
                tx_superframes=st.integers(0, 1 << 64),
                rx_superframes=st.integers(0, 1 << 64),
            ),
            max_size=3,
        ),
    )
)
def test_a_status_survives_its_text(status: Status) -> None:
    assert parse_status_untrusted(format_status(status)) == status


def test_a_status_of_a_newer_device_is_read_as_far_as_it_is_known() -> None:
    text = f"mtu=1420\nnew=x\npublic_key={KEY_HEX}\nmtu=1064\nsomething=else\nerrno=0\n\n"
    assert parse_status_untrusted(text) == Status(mtu=1420, peers={KEY: PeerStatus(mtu=1064)})


@pytest.mark.parametrize(
    "text", ["mtu=x\nerrno=0\n\n", "mtu=1\n\n", "errno=71\n\n", "public_key=1\nerrno=0\n\n"]
)
def test_a_status_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(UapiError):
        parse_status_untrusted(text)


PARSERS = (parse_get_untrusted, parse_status_untrusted, parse_counters_untrusted, parse_errno_untrusted)
names = st.sampled_from(
    [
        *("public_key", "private_key", "preshared_key", "listen_port", "fwmark", "allowed_ip", "endpoint"),
        *("last_handshake_time_sec", "last_handshake_time_nsec", "rx_bytes", "tx_bytes", "errno", "mtu"),
        *("persistent_keepalive_interval", "proven_mtu", "probes", "superframes", "tx_superframes"),
        *("superframe_ciphers", "offload_udp_send", "unknown", ""),
    ]
)
values = st.sampled_from(
    [
        *(KEY_HEX, KEY_HEX.upper(), "aa " * 21 + "a", "zz" * 32, " " * 64, "0" * 64, KEY_HEX[1:]),
        *("", "0", "1", "-1", "-", "+1", " 1", "0x", "0x10", "0x1_0", "1_0", "9" * 30, "\u00b2", "\u0663"),
        *("true", "false", "off", "on", "1.2.3.4:5", "1.2.3.4", ":5", "[::1]:5", "[::1%5]:5", "[::1%x]:5"),
        *("[%1]:1", "[]:1", "::1:5", "1.2.3.4:\u00b2", "10.0.0.0/8", "10.1.2.3/33", "::/0", "::/129"),
        *("fe80::1%eth0/64", "10.0.0.0/255.0.0.0", "1.2.3.4/\u00b2", "a=b"),
    ]
)
lines = st.one_of(
    st.builds("{}={}".format, names, st.one_of(values, st.text(max_size=20))), st.text(max_size=20)
)


@settings(max_examples=400)
@given(lines=st.lists(lines, max_size=12), end=st.sampled_from(["errno=0\n\n", "\n", ""]))
def test_whatever_answers_is_read_or_refused(lines: list[str], end: str) -> None:
    text = "".join(f"{line}\n" for line in lines) + end
    for parse in PARSERS:
        with contextlib.suppress(UapiError):
            parse(text)


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_answer(data: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(UapiError):
            parse(data.decode("utf-8", "replace") + "errno=0\n\n")


@given(state=device_states, at=st.integers(0, 1 << 16), flip=st.integers(1, 127))
def test_a_letter_that_was_changed(state: DeviceState, at: int, flip: int) -> None:
    text = format_get(state)
    at %= len(text)
    text = text[:at] + chr(ord(text[at]) ^ flip) + text[at + 1 :]
    for parse in PARSERS:
        with contextlib.suppress(UapiError):
            parse(text)
