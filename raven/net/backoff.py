"""How long to wait before the next attempt to dial."""

from typing import Final

FIRST: Final = 0.5  # seconds: the bound of the first wait
MOST: Final = 30.0  # seconds: the bound of every wait after some attempts


def backoff(attempts: int, chance: float, *, most: float = MOST) -> float:
    """Seconds to wait after so many failures in a row; `chance` is uniform in [0, 1).

    Full jitter: after a gateway's restart its agents come back spread evenly, not in waves.
    """
    return chance * min(most, FIRST * 2.0 ** min(attempts, 16))
