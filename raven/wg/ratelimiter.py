"""How many handshakes a source, and all sources together, may cost.

`LoadMeter` decides when the device asks for cookies; `RateLimiter` then bounds each source that proved its
address. Both are leaky buckets on `now`. Above: `device`.
"""

from ipaddress import IPv6Address

# A handshake answered costs about 0.2 ms. So a lone core is a quarter busy when we start to ask for
# cookies, and a thousand agents that reconnect within a second are mostly still served without.
LOAD_RATE = 1000.0  # handshake messages a second
LOAD_BURST = 256.0  # handshake messages
LOAD_AFTERGLOW = 1.0  # seconds that load is held to last, as in the kernel, so that cookies get used

# The kernel's figures: PACKETS_PER_SECOND, PACKETS_BURSTABLE
SOURCE_RATE = 20.0  # messages a second
SOURCE_BURST = 5.0  # messages
SOURCES_MAX = 8192  # 8192 entries are about 1.5 MB; each costs its owner a full cookie exchange
_FORGET_AFTER = SOURCE_BURST / SOURCE_RATE  # seconds in which an empty bucket is full again, hence forgotten


class LoadMeter:
    """Whether handshake messages come faster than this device wants to work."""

    __slots__ = ("_level", "_loaded_until", "_measured")

    def __init__(self) -> None:
        self._level = 0.0
        self._measured = 0.0
        self._loaded_until = float("-inf")

    def message_received(self, now: float) -> bool:
        """Counts one handshake message with a valid mac1; True while under load."""
        self._level = max(0.0, self._level - (now - self._measured) * LOAD_RATE) + 1.0
        self._measured = now
        if self._level > LOAD_BURST:
            self._level = LOAD_BURST
            self._loaded_until = now + LOAD_AFTERGLOW
        return now < self._loaded_until


class RateLimiter:
    """A bucket for each source address; IPv6 sources share one per /64, which is what one owner has."""

    __slots__ = ("_buckets", "_swept")

    def __init__(self) -> None:
        self._buckets: dict[str | int, tuple[float, float]] = {}  # source -> (tokens, when)
        self._swept = 0.0

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, host: str, now: float) -> bool:
        """Takes one token of `host`, a numeric address; False when it has none, or the table is full."""
        source = int(IPv6Address(host)) >> 64 if ":" in host else host
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= SOURCES_MAX and not self._sweep(now):
                return False
            tokens = SOURCE_BURST
        else:
            tokens = min(SOURCE_BURST, bucket[0] + (now - bucket[1]) * SOURCE_RATE)
        allowed = tokens >= 1.0
        self._buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        return allowed

    def _sweep(self, now: float) -> bool:
        """Forgets sources whose buckets are full again, at most once per filling time; True if one was."""
        if now - self._swept < _FORGET_AFTER:
            return False
        self._swept = now
        old = [source for source, (_, when) in self._buckets.items() if now - when >= _FORGET_AFTER]
        for source in old:
            del self._buckets[source]
        return bool(old)
