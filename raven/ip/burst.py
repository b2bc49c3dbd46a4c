"""Which bursts of received packets are worth joining: asked before `gro`, and with it numpy, is needed."""

from collections.abc import Sequence
from typing import Final

# A burst of fewer bytes is not worth a look: acknowledgements, a lone packet.
WORTH_JOINING: Final = 2048


def worth_joining(packets: Sequence[memoryview]) -> bool:
    """Whether `gro.Joiner` may make fewer writes of these packets."""
    return len(packets) > 1 and sum(map(len, packets)) >= WORTH_JOINING
