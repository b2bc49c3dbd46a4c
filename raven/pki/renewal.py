"""When a certificate is valid, when its holder asks for the next one, and whose clock decides.

The gateway's clock decides about both certificates of a connection: a device without a clock battery wakes up
in 1970, or wherever its last owner left it. A gateway that lies about the time gains little: an agent knows
that it was later than a certain moment when its own certificate was issued, which the CA has signed.
"""

BACKDATE = 3600.0  # seconds; a certificate starts this much in the past, for peers whose clock is behind
LEAF_LIFE = (
    90 * 86400.0
)  # seconds; longer than a season of repairs is short, and two thirds leave a month to renew
CA_LIFE = 3650 * 86400.0  # seconds; the pin in every agent ends with it, so it outlives the devices
RENEW_AFTER = 2 / 3  # of the life, DESIGN section 7
GRACE = 30 * 86400.0  # seconds after its end in which a certificate is still good for renewing itself


def renew_at(not_before: float, not_after: float) -> float:
    """The moment from which a certificate should be replaced, in the same seconds as its bounds."""
    return not_before + (not_after - not_before) * RENEW_AFTER


def is_valid_at(moment: float, not_before: float, not_after: float) -> bool:
    """Whether a certificate counts at `moment`, bounds included (RFC 5280, section 4.1.2.5)."""
    return not_before <= moment <= not_after


def is_renewable_at(moment: float, not_before: float, not_after: float) -> bool:
    """Whether the holder may ask for the next certificate at `moment`: the life, and the grace after it."""
    return not_before <= moment <= not_after + GRACE


def is_believable(told: float, floor: float) -> bool:
    """Whether a gateway may be right that it is `told`, when it was later than `floor` already.

    Without this a stolen key of a gateway would be good for ever: its holder could tell a time at which the
    certificate counted.
    """
    return told >= floor
