"""A watched file tells of every way a file is changed, and of nothing else."""

from pathlib import Path

import pytest
import trio

from raven.net.watched_file import WatchedFile


def rewrite(path: Path) -> None:
    path.write_text("longer than before")


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_text("x")
    other.replace(path)


def swap_link(path: Path) -> None:
    """As Kubernetes renews a ConfigMap: the file is a link through a directory that is a link."""
    target = path.with_suffix(".2")
    target.write_text("y")
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("change", [rewrite, replace, swap_link, Path.unlink])
async def test_a_change_is_noticed(tmp_path: Path, change: object) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    watched = WatchedFile(path, interval=0.02)
    assert callable(change)
    change(path)
    with trio.fail_after(5):
        await watched.changed()


async def test_nothing_is_told_of_a_file_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with trio.move_on_after(0.2) as scope:
        await WatchedFile(path, interval=0.01).changed()
    assert scope.cancelled_caught


async def test_a_nudge_returns_at_once(tmp_path: Path) -> None:
    watched = WatchedFile(tmp_path / "none", interval=1000)
    watched.nudge()
    with trio.fail_after(5):
        await watched.changed()
