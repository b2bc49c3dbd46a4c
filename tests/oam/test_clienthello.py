"""The server name: real ClientHellos in one piece, in many, cut, and with anything done to them."""

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.oam.clienthello import HELLO_MAX, HelloBuffer, fatal_alert
from tests.oam.hellos import hello, records


def read(data: bytes) -> str | None:
    buffer = HelloBuffer()
    buffer.receive_data(data)
    return buffer.server_name_untrusted()


def handshake(whole: bytes) -> bytes:
    """The handshake message in one record."""
    return whole[5:]


def built(extensions: bytes | None, *, tail: bytes = b"") -> bytes:
    """A small ClientHello with these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    if extensions is not None:
        body += struct.pack(">H", len(extensions)) + extensions
    body += tail
    return records(b"\x01" + len(body).to_bytes(3) + body, 1 << 14)


def server_name(*names: tuple[int, bytes]) -> bytes:
    entries = b"".join(struct.pack(">BH", kind, len(name)) + name for kind, name in names)
    content = struct.pack(">H", len(entries)) + entries
    return struct.pack(">HH", 0, len(content)) + content


def reason_of(data: bytes) -> str:
    with pytest.raises(PeerError) as refused:
        read(data)
    return refused.value.reason


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_name_is_what_the_client_dialled(newest: ssl.TLSVersion) -> None:
    assert read(hello("site-a", newest=newest)) == "site-a"
    assert read(hello("Node-7.Shop.Example", newest=newest)) == "node-7.shop.example"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 511])
def test_it_may_come_in_any_number_of_records(size: int) -> None:
    assert read(records(handshake(hello("site-a")), size)) == "site-a"


def test_byte_by_byte_the_name_is_there_at_the_last_byte_and_nothing_is_lost() -> None:
    whole = records(handshake(hello("site-a")), 50)
    buffer = HelloBuffer()
    for number, byte in enumerate(whole, 1):
        buffer.receive_data(bytes([byte]))
        assert buffer.server_name_untrusted() == (None if number < len(whole) else "site-a")
    assert buffer.data == whole


def test_every_truncation_waits_for_more() -> None:
    whole = hello("site-a")
    assert {read(whole[:length]) for length in range(len(whole))} == {None}


def test_what_follows_is_kept() -> None:
    buffer = HelloBuffer()
    buffer.receive_data(hello("site-a") + b"\x14\x03\x03\x00\x01\x01early data")
    assert buffer.server_name_untrusted() == "site-a"
    assert buffer.data.endswith(b"early data")


def test_without_a_name_it_leads_nowhere() -> None:
    assert reason_of(hello(None)) == "no-server-name"
    assert reason_of(built(None)) == "no-server-name"
    assert reason_of(built(b"")) == "no-server-name"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not-tls"),
        (b"\x80\x2e\x01\x00\x02", "not-tls"),  # SSL 2
        (b"\x16\x02\x00\x00\x05", "not-tls"),
        (b"\x16\x03\x01\x00\x00", "not-tls"),  # an empty record
        (b"\x16\x03\x01\x40\x01", "not-tls"),  # longer than a record may be
        (b"\x15\x03\x01\x00\x02\x02\x28", "not-tls"),
        (records(b"\x02\x00\x00\x01\x00", 100), "bad-hello"),
        (records(b"\x01\x00\x00\x01\x00", 100), "bad-hello"),
        (records(b"\x01\xff\xff\xff", 100), "hello-too-large"),
        (records(b"\x01\x00\x3f\xf0" + bytes(HELLO_MAX), 1 << 14)[: HELLO_MAX + 1], "hello-too-large"),
        (records(b"\x01\x00\x40\x00" + bytes(HELLO_MAX - 1), 1)[:HELLO_MAX], "hello-too-large"),
        (built(server_name((0, b"site-a")) * 2), "bad-hello"),
        (built(server_name((0, b"site-a"), (0, b"site-b"))), "bad-hello"),
        (built(server_name((1, b"site-a"))), "bad-hello"),
        (built(server_name((0, b""))), "bad-hello"),
        (built(server_name((0, b"site a"))), "bad-hello"),
        (built(server_name((0, b"site-a\0.example"))), "bad-hello"),
        (built(server_name((0, b"caf\xc3\xa9"))), "bad-hello"),
        (built(server_name((0, b"a." * 128))), "bad-hello"),
        (built(server_name((0, b"site-a"))[:-1]), "bad-hello"),
        (built(server_name((0, b"site-a")), tail=b"\0"), "bad-hello"),
        (built(b"\x00\x00\x00"), "bad-hello"),
    ],
)
def test_what_makes_no_sense_is_named(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_a_name_in_a_hello_of_our_own() -> None:
    assert read(built(b"\x00\x10\x00\x00" + server_name((0, b"site-a.")))) == "site-a"


@given(st.binary(max_size=300))
def test_random_bytes_end_in_a_name_a_wait_or_a_peer_error(data: bytes) -> None:
    survive(data)
    survive(b"\x16\x03\x01" + data)
    survive(records(b"\x01" + data, 64) if data else b"")
    survive(built(data))


@given(st.data())
def test_so_does_a_real_hello_with_bytes_changed(data: st.DataObject) -> None:
    whole = bytearray(records(handshake(WHOLE), 200))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=5)):
        whole[at] = data.draw(st.integers(0, 255))
    survive(bytes(whole))


WHOLE = hello("site-a")


def survive(data: bytes) -> None:
    try:
        name = read(data)
    except PeerError:
        return
    assert name is None or 0 < len(name) <= 253


def test_alerts_are_what_tls_calls_them() -> None:
    """Read by OpenSSL, as the client would."""
    for reason, said in (
        ("unknown-node", "TLSV1_UNRECOGNIZED_NAME"),
        ("not-permitted", "TLSV1_ALERT_ACCESS_DENIED"),
        ("offline-node", "TLSV1_ALERT_INTERNAL_ERROR"),
    ):
        incoming = ssl.MemoryBIO()
        incoming.write(fatal_alert(reason))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        end = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="site-a")
        with pytest.raises(ssl.SSLError) as error:
            end.do_handshake()
        assert error.value.reason == said
