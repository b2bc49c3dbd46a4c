"""The device's clock beside the kernel's."""

import time

from raven.dataplane.clock import boottime


def test_it_counts_the_time_asleep() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)
