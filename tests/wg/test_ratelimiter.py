"""Buckets in virtual time, their bound, and when load begins and ends."""

from random import Random

from raven.wg.ratelimiter import (
    LOAD_AFTERGLOW,
    LOAD_BURST,
    LOAD_RATE,
    SOURCE_BURST,
    SOURCE_RATE,
    SOURCES_MAX,
    LoadMeter,
    RateLimiter,
)


def test_a_source_has_a_burst_and_a_rate() -> None:
    limiter = RateLimiter()
    assert [limiter.allow("192.0.2.1", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.allow("192.0.2.2", 0.0)
    assert limiter.allow("192.0.2.1", 1 / SOURCE_RATE)
    assert not limiter.allow("192.0.2.1", 1 / SOURCE_RATE)


def test_ipv6_sources_share_a_64() -> None:
    limiter = RateLimiter()
    allowed = [limiter.allow(f"2001:db8::{i:x}", 0.0) for i in range(8)]
    assert allowed == [True] * 5 + [False] * 3
    assert limiter.allow("2001:db8:0:1::1", 0.0)


def test_no_rate_above_the_limit_passes() -> None:
    random = Random(1)
    limiter = RateLimiter()
    now, passed = 0.0, 0
    while now < 10.0:
        now += random.expovariate(100)
        passed += limiter.allow("192.0.2.1", now)
    assert passed <= SOURCE_BURST + SOURCE_RATE * now + 1
    assert passed >= SOURCE_RATE * 9.5


def test_the_table_is_bounded_and_heals() -> None:
    limiter = RateLimiter()
    for i in range(SOURCES_MAX + 100):
        limiter.allow(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 1.0)
    assert len(limiter) == SOURCES_MAX
    assert not limiter.allow("192.0.2.1", 1.0)
    assert limiter.allow("192.0.2.1", 2.0)
    assert len(limiter) == 1


def test_load_begins_with_a_flood_and_outlives_it_a_little() -> None:
    meter = LoadMeter()
    loaded = [meter.message_received(0.0) for _ in range(int(LOAD_BURST) + 1)]
    assert loaded == [False] * int(LOAD_BURST) + [True]
    assert meter.message_received(LOAD_AFTERGLOW - 0.01)
    assert not meter.message_received(LOAD_AFTERGLOW + 0.01)


def test_a_steady_rate_below_the_limit_is_no_load() -> None:
    meter = LoadMeter()
    interval = 1.1 / LOAD_RATE
    assert not any(meter.message_received(i * interval) for i in range(5000))
    interval = 0.9 / LOAD_RATE
    assert any(meter.message_received(100 + i * interval) for i in range(5000))
