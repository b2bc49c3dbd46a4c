"""Questions and answers over a loopback interface that carries probe addresses, and what is not answered."""

import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
import trio

from raven.keys import PublicKey
from raven.net.probe import ProbeError, Prober
from raven.topology.model import PROBE_PORT, probe_address
from tests.lab.machine import Machine
from tests.net.hosts import host

ONE, OTHER, SILENT = (probe_address(PublicKey(bytes([n]) * 32)) for n in (1, 2, 3))
QUESTION = struct.pack("!3sB8s", b"rvp", 1, b"n" * 8)
ANSWER = struct.pack("!3sB8s", b"rvp", 2, b"n" * 8)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with host(tmp_path) as made:
        for address in (ONE, OTHER, SILENT):
            made.run("ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        yield made


def play(machine: Machine, scenario: Callable[[Prober], Awaitable[None]]) -> Prober:
    """Runs `scenario` in the machine's network beside a prober at ONE, and returns that."""
    prober = Prober(ONE)

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(prober.run)
                await scenario(prober)
                nursery.cancel_scope.cancel()

    machine.inside(lambda: trio.run(main))
    return prober


async def ask(source: IPv6Address | str, data: bytes, *, port: int = 0, within: float = 5.0) -> bytes | None:
    """What a socket at `source` gets back for `data` to ONE; None: nothing within `within` seconds."""
    with trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asker:
        await asker.bind((str(source), port))
        await asker.sendto(data, (str(ONE), PROBE_PORT))
        with trio.move_on_after(within):
            return await asker.recv(2048)
    return None


@pytest.mark.netns
def test_two_devices_answer_each_other(machine: Machine) -> None:
    other = Prober(OTHER)

    async def scenario(one: Prober) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            assert 0 < await one.probe(OTHER) < 1
            assert 0 < await other.probe(ONE) < 1
            nursery.cancel_scope.cancel()

    one = play(machine, scenario)
    assert (one.answered, other.answered, one.dropped, other.dropped) == (1, 1, 0, 0)


@pytest.mark.netns
def test_an_answer_is_as_long_as_its_question_and_goes_to_the_probe_network_only(machine: Machine) -> None:
    async def scenario(one: Prober) -> None:
        assert await ask(SILENT, QUESTION) == ANSWER
        for data in (b"", QUESTION[:-1], QUESTION + b"x", bytes(12), QUESTION * 70, b"rvp\x03" + b"n" * 8):
            assert await ask(SILENT, data, within=0.1) is None
        assert await ask("::1", QUESTION, within=0.1) is None

    one = play(machine, scenario)
    assert one.answered == 1
    assert one.dropped == 7


@pytest.mark.netns
def test_an_answer_is_never_answered_and_a_forged_one_counts_for_nothing(machine: Machine) -> None:
    async def scenario(one: Prober) -> None:
        assert await ask(SILENT, ANSWER, port=PROBE_PORT, within=0.1) is None

        async def forge() -> None:
            # Sees the question, so knows the nonce, but answers from an address that was not asked.
            with (
                trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asked,
                trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as forger,
            ):
                await asked.bind((str(SILENT), PROBE_PORT))
                await forger.bind((str(OTHER), 0))
                nursery.start_soon(expect_silence)
                data, source = await asked.recvfrom(64)
                await forger.sendto(b"rvp\x02" + data[4:], source[:2])
                await silence.wait()

        async def expect_silence() -> None:
            with pytest.raises(ProbeError, match=r"no answer to 1 probes"):
                await one.probe(SILENT, timeout=0.2, attempts=1)
            silence.set()

        silence = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forge)

    assert play(machine, scenario).dropped == 2


@pytest.mark.netns
def test_a_lost_question_is_asked_again(machine: Machine) -> None:
    async def scenario(one: Prober) -> None:
        async with trio.open_nursery() as nursery:

            async def deaf_at_first() -> None:
                with trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asked:
                    await asked.bind((str(SILENT), PROBE_PORT))
                    nursery.start_soon(probe)
                    await asked.recvfrom(64)
                    data, source = await asked.recvfrom(64)
                    await asked.sendto(b"rvp\x02" + data[4:], source[:2])
                    await done.wait()

            async def probe() -> None:
                assert await one.probe(SILENT, timeout=1.0) < 1.0  # of the second round trip
                done.set()

            done = trio.Event()
            nursery.start_soon(deaf_at_first)

    play(machine, scenario)


@pytest.mark.netns
def test_the_socket_may_come_before_the_address(machine: Machine) -> None:
    machine.run("ip", "addr", "del", f"{ONE}/128", "dev", "lo")

    async def scenario(one: Prober) -> None:
        machine.run("ip", "addr", "add", f"{ONE}/128", "dev", "lo", "nodad")
        assert await ask(SILENT, QUESTION) == ANSWER

    play(machine, scenario)


@pytest.mark.netns
def test_no_way_there_is_a_sentence_at_once(machine: Machine) -> None:
    async def scenario(one: Prober) -> None:
        with pytest.raises(ProbeError, match="cannot be sent: Network is unreachable"):
            await one.probe(IPv6Address("fd6b:aaf4:af96::77"))

    play(machine, scenario)


@pytest.mark.netns
def test_without_ipv6_no_probe_leaves(machine: Machine) -> None:
    machine.set_sysctl(ipv6__conf__all__disable_ipv6=1)

    async def scenario(one: Prober) -> None:
        with pytest.raises(ProbeError, match="cannot be sent: Network is unreachable"):
            await one.probe(OTHER)

    play(machine, scenario)


@pytest.mark.netns
def test_a_port_in_use_is_a_sentence(machine: Machine) -> None:
    async def scenario(one: Prober) -> None:
        with pytest.raises(ProbeError, match=rf"no probe socket at \[{ONE}\]:4501: Address already in use"):
            await Prober(ONE).run()

    play(machine, scenario)


async def test_a_prober_that_does_not_run_asks_nothing() -> None:
    with pytest.raises(ProbeError, match="down on this side"):
        await Prober(ONE).probe(OTHER)
