"""Which of a site's endpoints are active: readiness, measured tunnel health, and no change without need.

OpenYurt's rules: a candidate's node is ready and in the site, and its endpoint is of the type that is
elected; incumbents that still qualify stay, then comes the order of the specification, up to the number of
replicas. To this Raven adds what it has measured: a candidate whose tunnel is known to be down yields to one
that is not. Nobody yields to nobody, so a site whose tunnels are all down keeps what it had.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

Candidate = TypeVar("Candidate")


class Health(NamedTuple):
    """What was measured of one node's tunnel."""

    up: bool
    age: float  # seconds since that began to be so

    def is_down(self) -> bool:
        """Known to be down, and for longer than a reconnect takes."""
        return not self.up and self.age >= DOWN_AFTER


# An agent that lost its network is back within a few seconds of having it again; electing another meanwhile
# would move a site's packets twice.
DOWN_AFTER = 10.0  # seconds


def elect(
    candidates: Sequence[tuple[str, Candidate]],
    *,
    ready: Collection[str],
    incumbents: Sequence[str],
    health: Mapping[str, Health],
    replicas: int,
) -> list[tuple[str, Candidate]]:
    """At most `replicas` winners of `candidates`, which are node names with what belongs to them.

    A node that is named twice counts once, as it is named first. Nodes that nobody has measured count as up:
    then their readiness is all there is to know.
    """
    first: dict[str, Candidate] = {}
    for node, candidate in candidates:
        first.setdefault(node, candidate)
    qualified = [node for node in first if node in ready]
    held = list(dict.fromkeys(incumbents))
    ranked = sorted(
        qualified,
        key=lambda node: (node in health and health[node].is_down(), node not in held),
    )  # stable: within a rank, the order of the specification
    return [(node, first[node]) for node in ranked[: max(0, replicas)]]
