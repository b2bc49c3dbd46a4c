"""Waiting with a bound: the one place of the lab that sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.lab.errors import LabError

T = TypeVar("T")

_PAUSE = 0.05  # seconds; short beside any program's start, long beside one look


def wait_until(condition: Callable[[], T | None], *, what: str, seconds: float) -> T:
    """The first truthy value of `condition`; LabError saying `what` was missing after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"after {seconds:g} s still waiting for {what}")
        time.sleep(_PAUSE)
