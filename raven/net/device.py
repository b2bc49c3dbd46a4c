"""A WireGuard device of this host as the control plane sees it: its state, its configuration, its counters.

Here through the UAPI socket of a userspace process; the kernel's devices are `raven.net.kernel_device`. Whose
device it is, and its life, are in `raven.net.adoption`; the values are those of `raven.wg.configuration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import trio

from raven.errors import RavenError
from raven.keys import PublicKey
from raven.wg import uapi, uapi_answers
from raven.wg.configuration import DeviceChange, DeviceState, PeerChange, Status, UapiError

UAPI_DIRECTORY = Path("/var/run/wireguard")  # shared by all network namespaces of a file system
ANSWER_MAX = 64 << 20  # bytes; a hundred thousand peers, far beyond what one device is asked to hold
ASK_MAX = 5.0  # seconds for a request; a device answers between two bursts


class DeviceError(RavenError):
    """There is no device to work with; the message is a sentence for the operator."""


class NoDevice(DeviceError):
    """Nobody listens at the socket: there is no such device, or no longer."""


class Device(Protocol):
    """What the lane needs of a device, whoever implements it. Every call raises DeviceError or UapiError."""

    @property
    def name(self) -> str: ...

    async def state(self) -> DeviceState: ...

    async def configure(self, change: DeviceChange) -> None: ...

    async def counters(self) -> Mapping[str, int]:
        """Drops by reason; empty when the device does not count them."""
        ...

    async def status(self) -> Status | None:
        """What a `raven-wg` tells beside WireGuard; None from any other device."""
        ...

    async def rekey(self, key: PublicKey) -> None:
        """Starts a handshake with a peer that may have lost its keys."""
        ...


def forget_keys(state: DeviceState, key: PublicKey) -> DeviceChange:
    """Removes the peer and adds it again as it was: WireGuard's only way to drop good keys of one peer.

    With a persistent keepalive, the handshake starts at once; otherwise with the next packet.
    """
    return DeviceChange(
        peers=[
            change
            for peer in state.peers
            if peer.public_key == key
            for change in (
                PeerChange(public_key=key, remove=True),
                PeerChange(
                    public_key=key,
                    preshared_key=peer.preshared_key,
                    endpoint=peer.endpoint,
                    keepalive=peer.keepalive,
                    allowed_ips=peer.allowed_ips,
                ),
            )
        ]
    )


class UapiDevice:
    """A userspace device behind `/var/run/wireguard/NAME.sock`."""

    def __init__(self, name: str, directory: Path = UAPI_DIRECTORY) -> None:
        self._name = name
        self.path = directory / f"{name}.sock"

    @property
    def name(self) -> str:
        return self._name

    async def state(self) -> DeviceState:
        return uapi_answers.parse_get_untrusted(await self._ask(f"{uapi.GET}\n\n"))

    async def configure(self, change: DeviceChange) -> None:
        """Applies `change`, all or nothing; UapiError with the device's errno when it refuses."""
        uapi_answers.parse_errno_untrusted(await self._ask(uapi.format_set(change)))

    async def counters(self) -> Mapping[str, int]:
        try:
            return uapi_answers.parse_counters_untrusted(await self._ask(f"{uapi.COUNTERS}\n\n"))
        except (UapiError, DeviceError):
            return {}  # wireguard-go does not know the question

    async def status(self) -> Status | None:
        try:
            return uapi_answers.parse_status_untrusted(await self._ask(f"{uapi.STATUS}\n\n"))
        except (UapiError, DeviceError):
            return None  # another implementation; wireguard-go closes the connection

    async def rekey(self, key: PublicKey) -> None:
        if await self.status() is not None:
            change = PeerChange(public_key=key, update_only=True, rekey=True)
            await self.configure(DeviceChange(peers=[change]))
        else:
            await self.configure(forget_keys(await self.state(), key))

    async def _ask(self, request: str) -> str:
        """The answer up to its empty line. One connection a request, so that a dead device is noticed."""
        try:
            with trio.fail_after(ASK_MAX):
                async with await trio.open_unix_socket(self.path) as stream:
                    await stream.send_all(request.encode())
                    answer = bytearray()
                    while not answer.endswith(b"\n\n"):
                        more = await stream.receive_some(65536)
                        if not more or len(answer) + len(more) > ANSWER_MAX:
                            raise DeviceError(f"{self.path}: the device broke off its answer")
                        answer += more
                    return answer.decode("ascii", "replace")
        except trio.TooSlowError as error:
            raise DeviceError(f"{self.path}: the device does not answer within {ASK_MAX:g} s") from error
        except trio.BrokenResourceError as error:
            raise DeviceError(f"{self.path}: the device closed the connection") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDevice(f"no device answers at {self.path}") from error
        except OSError as error:
            raise DeviceError(f"{self.path}: {error.strerror or error}") from error
