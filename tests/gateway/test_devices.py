"""What further devices are told: ports, interfaces and keys of their own, the same after a restart."""

from pathlib import Path
from types import SimpleNamespace

from gateway.devices import device_options, further_key
from gateway.options import GatewayOptions
from raven.keys import PrivateKey, PublicKey
from raven.wg.primitives import DhPrivateKey

PRIVATE = PrivateKey(bytes([1]) * 32)


def test_each_device_has_a_port_an_interface_and_a_key_of_its_own(tmp_path: Path) -> None:
    state = SimpleNamespace(wg_private_key=PRIVATE, wg_public_key=PublicKey(bytes([2]) * 32))
    options = GatewayOptions(state_dir=tmp_path, wg_interface="a-long-name-xyz")
    made = [device_options(options, state, number) for number in range(4)]  # type: ignore[arg-type]
    assert [one.listen_port for one in made] == [4500, 4502, 4503, 4504]
    assert made[0].interface == "a-long-name-xyz"
    assert [one.interface for one in made[1:]] == [f"a-long-name--{n}" for n in (1, 2, 3)]
    assert all(len(one.interface) <= 15 for one in made)
    assert len({one.private_key for one in made}) == len({one.state_dir for one in made}) == 4
    assert made[1].public_key == DhPrivateKey(made[1].private_key).public
    assert made[1].state_dir.stat().st_mode & 0o777 == 0o700
    again = device_options(options, state, 1)  # type: ignore[arg-type]
    assert again.private_key == made[1].private_key


def test_a_key_tells_nothing_of_another() -> None:
    keys = {further_key(PrivateKey(bytes([number]) * 32), device) for number in (1, 2) for device in (1, 2)}
    assert len(keys) == 4
