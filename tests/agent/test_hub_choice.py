"""Which gateway's hub a node takes, as tunnels come, break, return and end."""

from agent.hub_choice import SEEK_AFTER, HubChoice
from raven.control.messages import NetworkMap

A, B, C = (NetworkMap(revision=revision, nodes=[]) for revision in (1, 2, 3))


def silence(choice: HubChoice) -> NetworkMap | None:
    """What follows when the hub leaves probe after probe unanswered."""
    for _ in range(SEEK_AFTER - 1):
        assert choice.unanswered() is None
    return choice.unanswered()


def two() -> HubChoice:
    choice = HubChoice()
    choice.told("b", B)
    choice.told("a", A)
    return choice


def test_the_first_name_counts() -> None:
    choice = HubChoice()
    assert choice.told("b", B) is B
    assert choice.told("c", C) is None
    assert choice.told("a", A) is A
    assert choice.told("b", B) is None
    assert choice.told("a", C) is C
    assert choice.gateway == "a"


def test_a_gateway_whose_transport_broke_keeps_its_hub_while_that_answers() -> None:
    choice = two()
    assert not choice.seeking
    choice.broke("a")
    assert choice.seeking
    for _ in range(SEEK_AFTER):
        assert choice.unanswered() is None
        choice.answered()
    assert choice.gateway == "a"


def test_a_silent_hub_is_left_before_its_tunnel_is_given_up() -> None:
    choice = two()
    choice.broke("a")
    assert choice.unanswered() is None
    choice.broke("a")  # the next attempt to reach it failed: no reason to count anew
    assert choice.unanswered() is B
    assert (choice.gateway, choice.seeking) == ("b", False)
    assert choice.returned("a") is A  # as all other nodes do
    assert choice.gateway == "a"


def test_a_hub_is_left_when_its_tunnel_has_ended() -> None:
    choice = two()
    choice.lost("a")
    assert silence(choice) is B
    assert choice.returned("a") is None  # of a tunnel that never told a map


def test_a_hub_stays_where_no_other_gateway_is_reached() -> None:
    choice = two()
    choice.broke("b")
    choice.broke("a")
    assert not choice.seeking
    assert silence(choice) is None
    assert choice.gateway == "a"
    assert choice.returned("b") is None
    assert choice.seeking
    assert choice.unanswered() is B
