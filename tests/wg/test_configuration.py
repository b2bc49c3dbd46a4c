"""The model refuses what no device can have, and shows no secret."""

import errno
import subprocess
import sys
from collections.abc import Callable

import pytest

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import DeviceChange, DeviceState, PeerChange, UapiError
from raven.wg.endpoint import Endpoint

KEY = PublicKey(bytes(32))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DeviceChange(listen_port=65536),
        lambda: DeviceChange(listen_port=-1),
        lambda: DeviceChange(fwmark=1 << 32),
        lambda: PeerChange(public_key=KEY, keepalive=65536),
        lambda: PeerChange(public_key=KEY, endpoint=Endpoint("192.0.2.1", 65536)),
    ],
)
def test_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises(UapiError) as info:
        make()
    assert info.value.errno == errno.EINVAL


def test_secrets_are_hidden() -> None:
    secret = bytes(range(32))
    shown = repr(
        (
            DeviceChange(
                private_key=PrivateKey(secret),
                peers=[PeerChange(public_key=KEY, preshared_key=PresharedKey(secret))],
            ),
            DeviceState(private_key=PrivateKey(secret)),
        )
    )
    assert repr(secret)[2:-1] not in shown
    assert secret.hex() not in shown


def test_the_running_agent_can_afford_it() -> None:
    """Neither the model nor its codec imports cryptography or numpy: ten megabytes each."""
    code = (
        "import sys, raven.wg.configuration, raven.wg.uapi, raven.wg.uapi_answers, raven.wg.endpoint\n"
        "sys.exit(any(name.split('.')[0] in ('cryptography', 'numpy') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
