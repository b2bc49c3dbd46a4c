"""The clock of the device: seconds since the machine booted, those that it slept included.

Linux ages WireGuard's keys by it as well. By the monotonic clock, which the event loop keeps to, keys that
were made before a night's sleep would still seal and open in the morning.
"""

import time


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
