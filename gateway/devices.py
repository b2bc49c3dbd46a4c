"""What each of a gateway's WireGuard devices is told: the first as configured, the further ones after it.

A device is a process on a core; several share the nodes (`raven.topology.share`). Each has a port, an
interface and a key of its own. The keys follow from the gateway's, so there is nothing more to
keep or to lose.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from gateway.options import GatewayOptions
from raven.keys import PrivateKey
from raven.net.end import EndOptions
from raven.registry.gateway_state import GatewayState
from raven.topology.model import PROBE_PORT
from raven.wg.primitives import DhPrivateKey

_NAME_MAX = 15  # bytes of an interface's name


def device_options(options: GatewayOptions, state: GatewayState, number: int) -> EndOptions:
    """The options of device `number`; 0 is the one that every gateway has."""
    first = EndOptions(
        private_key=state.wg_private_key,
        public_key=state.wg_public_key,
        listen_port=options.wg_listen.port,
        pod_cidrs=options.pod_cidr,
        interface=options.wg_interface,
        state_dir=options.state_dir,
        backend=options.backend,
        off="switched off by --no-packets" if options.no_packets else "",
    )
    if number == 0:
        return first
    private = further_key(state.wg_private_key, number)
    directory = options.state_dir / f"device-{number}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return replace(
        first,
        private_key=private,
        public_key=DhPrivateKey(private).public,
        listen_port=device_port(options, number),
        interface=f"{options.wg_interface[: _NAME_MAX - 3]}-{number}",
        state_dir=directory,
    )


def device_port(options: GatewayOptions, number: int) -> int:
    """The UDP port of device `number`: those after --wg-listen's, but for the one that probes use."""
    first = options.wg_listen.port
    if not first or not number:
        return first
    port = first + number
    return port + 1 if first < PROBE_PORT <= port else port


def further_key(private: PrivateKey, number: int) -> PrivateKey:
    """The key of a further device. Whoever knows it knows nothing of the others."""
    derived = hashlib.blake2s(b"raven device %d" % number, key=private).digest()
    return PrivateKey.clamped(derived)
