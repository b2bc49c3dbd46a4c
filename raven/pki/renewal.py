"""When a certificate is valid, and when its holder asks for the next one."""

BACKDATE = 3600.0  # seconds; a certificate starts this much in the past, for peers whose clock is behind
LEAF_LIFE = (
    90 * 86400.0
)  # seconds; longer than a season of repairs is short, and two thirds leave a month to renew
CA_LIFE = 3650 * 86400.0  # seconds; the pin in every agent ends with it, so it outlives the devices
RENEW_AFTER = 2 / 3  # of the life, DESIGN section 7


def renew_at(not_before: float, not_after: float) -> float:
    """The moment from which a certificate should be replaced, in the same seconds as its bounds."""
    return not_before + (not_after - not_before) * RENEW_AFTER


def is_valid_at(moment: float, not_before: float, not_after: float) -> bool:
    """Whether a certificate counts at `moment`, bounds included (RFC 5280, section 4.1.2.5)."""
    return not_before <= moment <= not_after
