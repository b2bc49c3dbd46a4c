"""Whose device is it? Adopts the one that answers, starts one where none does, gives it back as it was.

- Nobody answers: `raven-wg` is started, and ended when the lane ends.
- It answers, and the marker file names its process: an earlier run of ours was killed. Taken over, and ended
  with us.
- The kernel has WireGuard, and the backend is not `userspace`: a link of the kernel's is made, and removed
  when the lane ends. One that is there is treated as a process's device is.
- It answers, and we did not start it: used if it holds our key or nothing at all, and afterwards emptied,
  never ended. One that somebody else has configured is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from raven.keys import PrivateKey
from raven.net.device import UAPI_DIRECTORY, Device, DeviceError, NoDevice, UapiDevice
from raven.net.device_process import DeviceProcess, find_program, start_blocker
from raven.net.kernel_device import KernelDevice, is_kernel_device, make_link, remove_link
from raven.wg.configuration import NO_PRIVATE_KEY, DeviceChange, DeviceState, UapiError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MARKER = "device.json"  # in the state directory, while a device is held
START_MAX = 30.0  # seconds from starting the process to its first answer; a small board imports slowly
_START_PAUSE = 0.05  # seconds between two looks at a starting device
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The marker: what a run found or started, so that a later one can take over and clear up after it."""

    interface: str
    index: int  # of the link; a link made anew has another
    boot: str  # boot_id: pids, ticks and indices start over with it
    pid: int = 0  # of the process we started; 0: the device was there
    start_time: int = 0  # ticks
    listen_port: int = 0  # as the device had it
    up: bool = False  # as the link was
    made_directory: bool = False  # the UAPI directory was not there
    made_link: bool = False  # the interface is the kernel's, and we made it


@dataclass(eq=False, slots=True)
class Adopted:
    """A device that is ours to configure for now, and how to give it back."""

    device: Device
    found: Found
    process: DeviceProcess | None  # None: somebody else's
    state_dir: Path
    directory: Path

    async def wait_gone(self) -> str:
        """A sentence, once its process has ended; waits for ever where the process is somebody else's."""
        if self.process is None:
            await trio.sleep_forever()
        assert self.process is not None
        return await self.process.wait_ended()

    async def give_back(self) -> None:
        """Ends our process, or empties somebody else's device. To be called shielded; bounded in time.

        The host's routes are not in here: they go before.
        """
        if self.process is not None:
            await self.process.stop()
            await self.process.close()
            (self.directory / f"{self.found.interface}.sock").unlink(missing_ok=True)  # if it was killed
            if self.found.made_directory:
                with contextlib.suppress(OSError):  # somebody else's socket is in it by now
                    self.directory.rmdir()
        else:
            with contextlib.suppress(DeviceError, UapiError):  # it went meanwhile
                if self.found.made_link:
                    await trio.to_thread.run_sync(remove_link, self.found.index)
                else:
                    await self.device.configure(
                        DeviceChange(
                            private_key=NO_PRIVATE_KEY, listen_port=self.found.listen_port, replace_peers=True
                        )
                    )
        with contextlib.suppress(OSError):
            (self.state_dir / MARKER).unlink(missing_ok=True)


async def adopt_or_start(
    name: str,
    *,
    key: PrivateKey,
    state_dir: Path,
    nursery: trio.Nursery,
    log: FilteringBoundLogger,
    backend: str = "auto",
    program: Sequence[str] | None = None,
    directory: Path = UAPI_DIRECTORY,
) -> Adopted:
    """The device `name`, ready to be configured; DeviceError says why there is none.

    `backend` is `kernel`, `userspace`, or `auto`: the kernel's where it has WireGuard. `nursery` carries the
    task that reads the process's log. `program` stands in for `raven-wg -f`.
    """
    device = UapiDevice(name, directory)
    try:
        state = await device.state()
    except NoDevice:
        if backend != "userspace" and (program is None or backend == "kernel"):
            there = bool(_index(name)) and await trio.to_thread.run_sync(is_kernel_device, name)
            refusal = "" if there else await trio.to_thread.run_sync(make_link, name)
            if not refusal:
                return await _adopt_kernel(KernelDevice(name), key, state_dir, log, made=not there)
            if backend == "kernel":
                raise DeviceError(refusal) from None
        return await _start(device, state_dir, nursery, log, program, directory)
    if backend == "kernel":
        raise DeviceError(f"the device {name} is a process's, and the backend is kernel: end it first")
    return await _adopt(device, state, key, state_dir, log, device.path.parent)


async def _adopt_kernel(
    device: KernelDevice, key: PrivateKey, state_dir: Path, log: FilteringBoundLogger, *, made: bool
) -> Adopted:
    index = _index(device.name)
    try:
        state = await device.state()
        return await _adopt(device, state, key, state_dir, log, UAPI_DIRECTORY, made_link=made)
    except BaseException:
        if made:  # nothing on disk says so yet, and whoever cancels has no device to remove
            with contextlib.suppress(DeviceError):
                remove_link(index)
        raise


async def _adopt(
    device: Device,
    state: DeviceState,
    key: PrivateKey,
    state_dir: Path,
    log: FilteringBoundLogger,
    directory: Path,
    *,
    made_link: bool = False,
) -> Adopted:
    name = device.name
    index = _index(name)
    if not index:
        raise DeviceError(
            f"{directory / name}.sock answers, but this network namespace has no interface {name}: it is "
            "another namespace's, whose file system this one shares; choose another name with --wg-interface"
        )
    left = _read_marker(state_dir)
    if left is not None and (left.interface, left.index, left.boot) != (name, index, _boot_id()):
        left = None
    process = DeviceProcess.find(left.pid, left.start_time) if left is not None and left.pid else None
    ours = process is not None or state.private_key == key
    if not ours and (state.private_key != NO_PRIVATE_KEY or state.peers):
        raise DeviceError(
            f"the device {name} is in use: it has another private key or peers of its own; "
            "choose another name with --wg-interface"
        )
    found = left or Found(
        interface=name,
        index=index,
        boot=_boot_id(),
        listen_port=state.listen_port,
        up=_is_up(name),
        made_link=made_link,
    )
    log.info(
        "device made" if made_link else "device taken over" if ours else "device adopted",
        interface=name,
        process=found.pid or None,
        kernel=isinstance(device, KernelDevice),
    )
    adopted = Adopted(device, found, process, state_dir, directory)
    _write_marker(state_dir, found, log)
    return adopted


async def _start(
    device: UapiDevice,
    state_dir: Path,
    nursery: trio.Nursery,
    log: FilteringBoundLogger,
    program: Sequence[str] | None,
    directory: Path,
) -> Adopted:
    name = device.name
    if _index(name):
        raise DeviceError(
            f"there is an interface {name} already, and no device answers at {device.path}: remove it, "
            "or choose another name with --wg-interface"
        )
    if program is None:
        if blocker := start_blocker():
            raise DeviceError(blocker)
        program = [find_program() or "", "-f"]
    made_directory = not _exists(directory)
    process = await DeviceProcess.start([*program, name])
    nursery.start_soon(process.follow, log)
    try:
        found = Found(
            interface=name,
            index=await _wait_answering(device, process),
            boot=_boot_id(),
            pid=process.pid,
            start_time=process.start_time,
            made_directory=made_directory,
        )
    except BaseException:
        with trio.CancelScope(shield=True):
            await process.stop()
            await process.close()
            device.path.unlink(missing_ok=True)
        raise
    log.info("device started", interface=name, process=process.pid)
    _write_marker(state_dir, found, log)
    return Adopted(device, found, process, state_dir, directory)


async def _wait_answering(device: UapiDevice, process: DeviceProcess) -> int:
    """The index of the link once the device answers; DeviceError when its process ends, or takes too long."""
    ended = ""
    index = 0

    async def look() -> None:
        nonlocal index
        while not index:
            with contextlib.suppress(DeviceError, UapiError):
                await device.state()
                index = _index(device.name)
            await trio.sleep(_START_PAUSE)
        racing.cancel_scope.cancel()

    async def watch() -> None:
        nonlocal ended
        ended = await process.wait_ended()
        racing.cancel_scope.cancel()

    with trio.move_on_after(START_MAX):
        async with trio.open_nursery() as racing:
            racing.start_soon(watch)
            racing.start_soon(look)
    if ended or not index:
        raise DeviceError(
            ended or f"the device {device.name} does not answer {START_MAX:g} s after its start"
        )
    return index


def _exists(path: Path) -> bool:
    return path.exists()


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _is_up(name: str) -> bool:
    # - char[16]: name; - short: flags (netdevice(7), struct ifreq)
    request = struct.pack("16sh22x", name.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker, contextlib.suppress(OSError):
        return bool(struct.unpack_from("16xh", fcntl.ioctl(asker, _SIOCGIFFLAGS, request))[0] & _IFF_UP)
    return False


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read_marker(state_dir: Path) -> Found | None:
    """What an earlier run left; None without one. A marker nobody can read is as good as none."""
    try:
        return msgspec.json.decode((state_dir / MARKER).read_bytes(), type=Found)
    except (OSError, msgspec.DecodeError):
        return None


def _write_marker(state_dir: Path, found: Found, log: FilteringBoundLogger) -> None:
    # No fsync: after a power cut there is no device to find.
    path = state_dir / MARKER
    try:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(found))
        fresh.replace(path)
    except OSError as error:
        log.warning("no marker for the device", file=str(path), why=error.strerror)
