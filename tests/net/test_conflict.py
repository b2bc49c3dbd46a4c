"""Two tasks in one place."""

import pytest
import trio

from raven.net.conflict import ConflictDetector


def test_the_second_is_told_and_the_first_not_disturbed() -> None:
    detector = ConflictDetector("someone is here")
    with detector:
        with pytest.raises(trio.BusyResourceError, match="someone is here"), detector:
            pass
        with pytest.raises(trio.BusyResourceError), detector:
            pass
    with detector:
        pass


def test_an_error_inside_leaves_it_free() -> None:
    detector = ConflictDetector("busy")
    with pytest.raises(KeyError), detector:
        raise KeyError
    with detector:
        pass
