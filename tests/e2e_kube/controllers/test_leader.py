"""Of two gateways one leads: it dies, leaves, is paused, is robbed of the Lease, or its clock jumps."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e_kube.controllers.objects import (
    LEASE,
    PROXIES,
    SECONDS,
    TUNNELS,
    KubeGateway,
    Objects,
    proxy,
    tunnel,
)
from tests.lab.waiting import wait_until

LIFE = 15.0  # seconds of the Lease
LOOKS = 2.4  # seconds between two looks of a candidate, at most
BUSY = 10.0  # seconds more, for a busy machine
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.fixture(scope="module")
def _pair(_objects: Objects) -> Iterator[dict[str, KubeGateway]]:
    names = ("c1", "c2")  # as a DaemonSet names them: by their nodes
    pair = {name: _objects.gateway(name) for name in names}
    yield pair
    for one in pair.values():
        one.stop()


@pytest.fixture
def pair(objects: Objects, _leader: KubeGateway, _pair: dict[str, KubeGateway]) -> dict[str, KubeGateway]:
    """Two gateways, one of which leads, and a cluster where they have something to do."""
    _leader.stop()
    for one in _pair.values():
        if one.process is None or not one.process.alive:
            one.start()
    objects.node("c1", "cloud", address="192.0.2.1")
    objects.node("c2", "cloud", address="192.0.2.2")
    objects.node("e1", "shop")
    objects.node("e2", "shop")
    objects.site("cloud", proxy("c1"), proxy("c2"), **PROXIES)
    objects.site("shop", tunnel("e1"), tunnel("e2"), **TUNNELS)
    objects.set_pods({"c1": True, "c2": True})
    wait_until(lambda: objects.holder() in _pair, what="one of the two to lead", seconds=SECONDS)
    wait_until(
        lambda: objects.addresses() == ["192.0.2.1", "192.0.2.2"], what="both in the Service", seconds=SECONDS
    )
    wait_until(lambda: objects.active("shop") == [("e1", "tunnel")], what="a site's status", seconds=SECONDS)
    return _pair


def _other(name: str) -> str:
    return "c2" if name == "c1" else "c1"


def _only(objects: Objects, name: str) -> bool:
    return objects.addresses() == [f"192.0.2.{name[1]}"]


def _follows(objects: Objects) -> None:
    """Whoever leads does its work."""
    objects.set_ready("e1", False)
    wait_until(
        lambda: objects.active("shop") == [("e2", "tunnel")], what="the next endpoint", seconds=SECONDS
    )


def test_a_leader_that_is_killed_is_followed_within_its_lease(
    objects: Objects, pair: dict[str, KubeGateway]
) -> None:
    dead = objects.holder()
    pair[dead].kill()
    died = time.monotonic()
    wait_until(
        lambda: objects.holder() == _other(dead), what="the other to lead", seconds=LIFE + LOOKS + BUSY
    )
    assert time.monotonic() - died > 1  # it has not gone for want of a leader
    _follows(objects)


def test_the_service_leaves_out_at_once_whose_pod_is_not_ready(
    objects: Objects, pair: dict[str, KubeGateway]
) -> None:
    """The leader itself is the one that died: who waits for the Lease does not wait for its end."""
    dead = objects.holder()
    pair[dead].kill()
    objects.set_pods({dead: False, _other(dead): True})  # as the cluster does when a container has ended
    wait_until(lambda: _only(objects, _other(dead)), what="the Service without it", seconds=LIFE - 5)
    objects.set_pods({"c1": True, "c2": True})


def test_another_gateway_that_dies_is_left_out_at_once(
    objects: Objects, pair: dict[str, KubeGateway]
) -> None:
    dead = _other(objects.holder())
    pair[dead].kill()
    objects.set_pods({dead: False, _other(dead): True})
    wait_until(lambda: _only(objects, _other(dead)), what="the Service without it", seconds=BUSY)
    objects.set_pods({"c1": True, "c2": True})


def test_a_leader_that_leaves_gives_the_lease_back(objects: Objects, pair: dict[str, KubeGateway]) -> None:
    leaves = objects.holder()
    began = time.monotonic()
    pair[leaves].stop()
    wait_until(lambda: objects.holder() == _other(leaves), what="the other to lead", seconds=BUSY)
    assert time.monotonic() - began < LIFE
    _follows(objects)


def test_a_paused_leader_finds_another_and_does_no_harm(
    objects: Objects, pair: dict[str, KubeGateway]
) -> None:
    """A machine that slept: both clocks jump, and for a moment there are two that think they lead."""
    paused = objects.holder()
    process = pair[paused].process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        wait_until(
            lambda: objects.holder() == _other(paused), what="the other to lead", seconds=LIFE + LOOKS + BUSY
        )
        _follows(objects)
    finally:
        process.send_signal(signal.SIGCONT)
    wait_until(lambda: "no longer leading" in pair[paused].log(), what="the first to notice", seconds=SECONDS)
    _settled(objects, holder=_other(paused))


def _settled(objects: Objects, *, holder: str) -> None:
    """Nobody writes against anybody: for some looks of all, what is written stays as it is."""

    def versions() -> list[str]:
        found = [
            objects.api.get(f"/apis/raven.openyurt.io/v1beta1/gateways/{one}") for one in ("shop", "cloud")
        ]
        return [
            one["metadata"]["resourceVersion"]
            for one in [*found, *objects.slices("x-raven-proxy-internal-svc")]
        ]

    before = versions()
    until = time.monotonic() + 4 * LOOKS
    while time.monotonic() < until:
        assert objects.holder() == holder
        time.sleep(0.5)
    assert versions() == before


def test_a_lease_that_is_taken_by_force_is_left(objects: Objects, pair: dict[str, KubeGateway]) -> None:
    """A conflicting writer of the Lease: nobody leads while a stranger renews it, then somebody does."""
    robbed = objects.holder()
    for number in range(10):
        stranger = {"holderIdentity": "stranger", "leaseDurationSeconds": 15, "leaseTransitions": 90 + number}
        objects.api.merge(LEASE, {"spec": {**stranger, "renewTime": "2001-01-01T00:00:00.000000Z"}})
        time.sleep(1)
        assert objects.holder() == "stranger"  # though by the wall clock it has ended long ago
    assert "stranger has taken the Lease" in pair[robbed].log()
    wait_until(
        lambda: objects.holder() in pair, what="one of them to lead again", seconds=LIFE + LOOKS + BUSY
    )
    _follows(objects)


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed")
@pytest.mark.parametrize(("where", "jump"), [("ahead", "+3600"), ("back", "-3600")])
def test_a_clock_that_jumps_elects_nobody(
    objects: Objects, pair: dict[str, KubeGateway], where: str, jump: str
) -> None:
    """The wall clock of a candidate jumps an hour ahead of the leader's, or back."""
    leads = objects.holder()
    pair[_other(leads)].stop()
    clock = objects.world.directory / "clock"
    clock.write_text("+0")
    settings = (
        *(f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={clock}", "DONT_FAKE_MONOTONIC=1"),
        *("FAKETIME_NO_CACHE=1", "FAKETIME_DONT_RESET=1"),
    )
    third = objects.gateway(f"jumps-{where}", under=("env", *settings))
    third.start()
    try:
        wait_until(lambda: "ready" in third.log(), what="the third gateway", seconds=SECONDS)
        clock.write_text(jump)
        until = time.monotonic() + LIFE + LOOKS
        while time.monotonic() < until:
            assert objects.holder() == leads
            time.sleep(0.5)
        _follows(objects)
        pair[leads].stop()  # and what it writes when it leads in its turn is renewed like any other
        wait_until(lambda: objects.holder() == third.name, what="it to lead", seconds=BUSY)
        pair[leads].start()
        until = time.monotonic() + LIFE + LOOKS
        while time.monotonic() < until:
            assert objects.holder() == third.name
            time.sleep(0.5)
    finally:
        third.stop()
