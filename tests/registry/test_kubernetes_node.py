"""What joins, renewals and connections make of a node's record."""

import msgspec

from raven.pki.renewal import LEAF_LIFE
from raven.registry.interface import CertificateRecord
from raven.registry.kubernetes_node import CERTIFICATES_MAX, Noted, Said, SharedNode

NOW = 1_800_000_000.0


def issued(serial: str, *, now: float = NOW) -> CertificateRecord:
    return CertificateRecord(
        serial=serial,
        node="shop-1",
        key_hash=b"k" * 32,
        not_before=now,
        not_after=now + LEAF_LIFE,
        issued=now,
        pem=f"pem {serial}",
    )


def joined(node: SharedNode | None = None, serial: str = "01", *, now: float = NOW) -> SharedNode:
    before = node or SharedNode(name="shop-1", created=now)
    return before.rejoined(issued(serial, now=now), token="tok", pod_allow=(), now=now)


def test_who_joins_again_has_one_certificate_that_counts() -> None:
    node = joined(joined(), "02", now=NOW + 5)
    assert [(one.serial, one.revoked, one.pem) for one in node.certificates] == [
        ("01", NOW + 5, ""),
        ("02", None, "pem 02"),
    ]
    newest = node.newest()
    assert newest.certificate is not None
    assert (newest.certificate.serial, newest.token_id, node.created) == ("02", "tok", NOW)


def test_the_one_before_a_renewal_counts_until_the_new_one_was_used() -> None:
    node = joined().renewed(issued("02", now=NOW + 9), shown="01", now=NOW + 9)
    assert [one.counts for one in node.certificates] == [True, True]
    assert node.used("01", now=NOW + 10) == node
    assert [one.counts for one in node.used("02", now=NOW + 10).certificates] == [False, True]
    assert node.used("77", now=NOW + 10) == node


def test_what_a_token_allows_replaces_what_was_and_nothing_does_not() -> None:
    node = SharedNode(name="shop-1", created=NOW, pod_allow=("10.0.0.0/8",))
    again = node.rejoined(issued("01"), token="t", pod_allow=("10.42.0.0/16",), now=NOW)
    assert again.pod_allow == ("10.42.0.0/16",)
    assert node.rejoined(issued("01"), token="t", pod_allow=(), now=NOW).pod_allow == ("10.0.0.0/8",)


def test_a_node_that_renews_for_ever_stays_small_and_keeps_what_it_shows() -> None:
    node = joined()
    for number in range(2, 40):
        node = node.renewed(issued(f"{number:02}", now=NOW + number), shown="01", now=NOW + number)
    serials = [one.serial for one in node.certificates]
    assert len(serials) == CERTIFICATES_MAX
    assert (serials[0], serials[-1]) == ("01", "39")
    assert len(msgspec.json.encode(node)) < 10_000


def test_a_certificate_that_ended_long_ago_is_forgotten() -> None:
    node = joined(joined(), "02", now=NOW + LEAF_LIFE + 61 * 86400)
    assert [one.serial for one in node.certificates] == ["02"]


def test_what_was_heard_is_kept_together() -> None:
    said = [Said(public_key=None, pod_cidrs=(), software=text, address="") for text in ("1", "2")]
    noted = Noted(said=said[1]).after(Noted(used=("02", NOW)).after(Noted(said=said[0])))
    assert noted == Noted(said=said[1], used=("02", NOW))
    node = noted.on(joined().renewed(issued("02"), shown="01", now=NOW))
    assert (node.software, [one.counts for one in node.certificates]) == ("2", [False, True])
