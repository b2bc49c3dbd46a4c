import pytest

from raven.names import is_cluster, is_name

GOOD_NAMES = ["a", "0", "shop-1", "node.example.com", "a" * 253]
BAD_NAMES = ["", "-a", "a-", ".a", "a.", "A", "a_b", "a/b", "a b", "a\n", "ä", "a\x00", "a" * 254, "٣"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_a_node_may_have(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_a_node_may_not_have(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("name", ["a", "eu-west-1", "a" * 63])
def test_names_a_cluster_may_have(name: str) -> None:
    assert is_cluster(name)


@pytest.mark.parametrize("name", [*BAD_NAMES, "a.b", "a" * 64])
def test_names_a_cluster_may_not_have(name: str) -> None:
    assert not is_cluster(name)
