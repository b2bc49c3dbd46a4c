"""The measured server and its clients, over loopback."""

import socket
import threading
from collections.abc import Iterator

import pytest

from bench import traffic


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """A connection to one serving thread."""
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=traffic._serve_one, args=(theirs,))
    server.start()
    with ours:
        yield ours
    server.join(5)
    assert not server.is_alive()


def test_a_download_counts_what_comes(peer: socket.socket) -> None:
    assert traffic.download(peer, 0.05) > 0


def test_an_upload_is_what_the_server_counted(peer: socket.socket) -> None:
    assert traffic.upload(peer, 0.05) > 0


def test_an_echo_has_been_there(peer: socket.socket) -> None:
    traffic.echo(peer)


def test_round_trips_are_counted_one_by_one(peer: socket.socket) -> None:
    assert len(traffic.round_trips(peer, 0.05, 0.01)) in range(1, 6)
    peer.shutdown(socket.SHUT_WR)


def test_a_half_close_is_heard(peer: socket.socket) -> None:
    assert traffic.half_close(peer) == 5
