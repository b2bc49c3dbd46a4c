"""The demo's command line where it cannot run; what it does where it can is its own test."""

import os

import pytest

from tests.demo.__main__ import main


def test_without_root_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["demo", "--once"])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "root" in said
