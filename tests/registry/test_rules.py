"""The rules that every registry keeps, where they can be told apart without one."""

from raven.registry.rules import judge_renewal
from tests.registry.records import KEY, NOW, issuing


def test_who_asks_again_over_the_same_tunnel_gets_the_same_unless_another_is_due() -> None:
    held = issuing("0B")("shop-1")

    def judge(*, due: bool) -> object:
        return judge_renewal(held, held, node="shop-1", key_hash=KEY, now=NOW + 1, due=due)

    assert judge(due=False) == held
    assert judge(due=True) is None, "the CA before has signed it"
