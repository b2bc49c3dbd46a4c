"""ravenctl without a daemon, and its help."""

from pathlib import Path

from tests.cli.daemon import daemon, gateway, ravenctl


async def test_no_daemon_is_a_usage_error_with_the_next_step(tmp_path: Path) -> None:
    ran = await ravenctl("--socket", tmp_path / "absent", "status")
    assert (ran.code, ran.out) == (2, "")
    assert f"{tmp_path / 'absent'}: there is no such socket" in ran.err
    assert "systemctl status raven-gateway raven-agent" in ran.err
    assert "Traceback" not in ran.err


async def test_help_names_commands_and_exit_codes() -> None:
    ran = await ravenctl("--help")
    assert ran.code == 0
    for word in ("status", "nodes", "ping", "doctor", "netcheck", "Exit codes", "--socket"):
        assert word in ran.out


async def test_a_wrong_command_is_a_usage_error() -> None:
    assert (await ravenctl("frobnicate")).code == 2
    assert (await ravenctl("status", "-o", "yaml")).code == 2


async def test_a_stranger_on_the_socket(tmp_path: Path) -> None:
    async with daemon(tmp_path / "s", gateway()):
        assert (await ravenctl("--socket", tmp_path / "s", "status")).code == 0
