from raven.pki.renewal import (
    BACKDATE,
    GRACE,
    LEAF_LIFE,
    is_believable,
    is_renewable_at,
    is_valid_at,
    renew_at,
)


def test_renewal_is_due_at_two_thirds_of_the_life() -> None:
    assert renew_at(100.0, 400.0) == 300.0


def test_a_leaf_leaves_a_month_to_renew() -> None:
    not_after = LEAF_LIFE - BACKDATE
    assert not_after - renew_at(-BACKDATE, not_after) > 29 * 86400


def test_both_bounds_belong_to_the_life() -> None:
    assert [is_valid_at(moment, 1.0, 2.0) for moment in (0.9, 1.0, 1.5, 2.0, 2.1)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_the_grace_follows_the_life() -> None:
    moments = (0.9, 1.0, 2.0, 2.0 + GRACE, 2.1 + GRACE)
    assert [is_renewable_at(moment, 1.0, 2.0) for moment in moments] == [False, True, True, True, False]


def test_it_cannot_be_earlier_than_it_was() -> None:
    assert [is_believable(told, 5.0) for told in (0.0, 4.9, 5.0, 1e10)] == [False, False, True, True]
