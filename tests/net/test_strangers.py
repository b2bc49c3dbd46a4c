"""Places for strangers: bounded in all and for one network, and never shut for a network that has none."""

from contextlib import ExitStack, suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import RefusedError
from raven.net.strangers import Place, Strangers


def strangers(chance: float = 0.999, *, low: int = 8, high: int = 16, each: int = 6) -> Strangers:
    return Strangers(low=low, high=high, each_max=each, chance=lambda: chance)


def fill(places: Strangers, stack: ExitStack, *hosts: str) -> list[Place]:
    return [stack.enter_context(places.place(host)) for host in hosts]


def host(network: int, number: int = 1) -> str:
    return f"10.{network // 256}.{network % 256}.{number}"


async def test_one_network_has_few_places_and_gets_them_back() -> None:
    places = strangers()
    with ExitStack() as stack:
        fill(places, stack, *(host(1, number) for number in range(6)))
        with pytest.raises(RefusedError) as caught, places.place(host(1, 99)):
            pass
        assert caught.value.reason == "too-many-from-network"
        fill(places, stack, host(2))
    assert len(places) == 0
    with places.place(host(1)):
        assert len(places) == 1


async def test_between_the_thresholds_it_is_refused_at_random_the_more_the_fuller() -> None:
    for total, chance, refused in ((8, 0.0, False), (12, 0.49, True), (12, 0.51, False), (15, 0.86, True)):
        places = strangers(chance)
        with ExitStack() as stack:
            fill(places, stack, *(host(number % 7) for number in range(total)))
            if refused:
                with pytest.raises(RefusedError, match="have yet to say"):
                    fill(places, stack, host(0))
            else:
                fill(places, stack, host(0))


async def test_a_network_without_a_place_is_never_refused_early() -> None:
    places = strangers(0.0)
    with ExitStack() as stack:
        fill(places, stack, *(host(number) for number in range(16)))
        fill(places, stack, host(99))
        assert len(places) == 16


async def test_when_full_the_network_with_most_loses_its_oldest() -> None:
    places = strangers()
    ended: list[str] = []

    async def wait(name: str, of: str, entered: trio.Event) -> None:
        try:
            with places.place(of):
                entered.set()
                await trio.sleep_forever()
        except RefusedError as error:
            ended.append(f"{name} {error.reason}")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            crowd = [("lone", host(0))] + [(f"crowd{number}", host(1)) for number in range(6)]
            crowd += [(f"pair{number}", host(2 + number // 2)) for number in range(9)]
            for name, of in crowd:
                entered = trio.Event()
                nursery.start_soon(wait, name, of, entered)
                await entered.wait()
            assert len(places) == 16
            with places.place(host(50)):
                assert len(places) == 16
                await trio.testing.wait_all_tasks_blocked()
                assert ended == ["crowd0 displaced"]
            nursery.cancel_scope.cancel()


async def test_who_has_said_who_it_is_cannot_be_displaced() -> None:
    places = strangers(low=1, high=2)
    with places.place(host(1)) as first:
        places.leave(first)
        with ExitStack() as stack:
            fill(places, stack, *(host(number) for number in range(2, 12)))
        assert not first.scope.cancel_called


@given(st.lists(st.integers(0, 20), max_size=60), st.floats(0, 0.99))
def test_the_bounds_hold_whatever_comes(networks: list[int], chance: float) -> None:
    async def run() -> None:
        places = strangers(chance)
        held: list[ExitStack] = []
        for network in networks:
            stack = ExitStack()
            try:
                stack.enter_context(places.place(host(network)))
            except RefusedError:
                continue
            held.append(stack)
            assert len(places) <= 16
        while held:
            with suppress(RefusedError):  # displaced meanwhile
                held.pop().close()
        assert len(places) == 0

    trio.run(run)
