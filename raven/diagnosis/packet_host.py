"""What this host gives to the packet lane: TUN, the right to use it, the device, switches, UDP and MTU.

Only a lane that failed makes any of it broken; what is odd beside one that is up, or starts, is noted.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from raven.diagnosis.contact import known_path_mtu
from raven.diagnosis.finding import Finding, Result
from raven.diagnosis.forward_policy import forward_policy
from raven.diagnosis.judge import count
from raven.errors import RavenError
from raven.net.device import UAPI_DIRECTORY, NoDevice, UapiDevice
from raven.net.kernel_device import KernelDevice
from raven.net.relay import is_relay
from raven.net.sysctls import InterfaceSysctls
from raven.spans import age
from raven.wg.configuration import DeviceState, PeerState, Status, UapiError

TUN: Final = Path("/dev/net/tun")
KEYS_EXPIRE: Final = 180.0  # seconds since a handshake; nothing passes afterwards (Reject-After-Time)
# Bytes around a packet in WireGuard: IP, UDP 8, its own header 16 and tag 16.
OVERHEAD: Final = {4: 20 + 8 + 32, 6: 40 + 8 + 32}
_CAP_NET_ADMIN: Final = 12  # linux/capability.h


async def own_interface(directory: Path | None, otherwise: str) -> str:
    """The device that has the key in this state directory, whatever it is called; else `otherwise`."""
    try:
        key = ((directory or Path()) / "wg.key").read_text().strip() if directory is not None else ""
        names = sorted(path.stem for path in UAPI_DIRECTORY.glob("*.sock"))
    except OSError:
        return otherwise
    for name in names if key else ():
        with suppress(RavenError, UapiError):
            if (await UapiDevice(name).state()).private_key.to_base64() == key:
                return name
    return otherwise


async def examine(
    *, interface: str, process: int | None, failed: bool, pod_cidrs: list[str], hub: bool
) -> list[Finding]:
    """Everything below the packet lane whose device is `interface` and whose daemon is `process`.

    `failed` says that packets were tried and do not pass, `hub` that this host dials nobody.
    """
    severity: Result = "broken" if failed else "note"
    device, state = await find_device(interface, severity)
    findings = [tun(severity if state is None else "note"), rights(process, severity), device]
    findings += [ipv6(interface), *forwarding(interface, pod_cidrs, severity)]
    if pod_cidrs:
        findings += await trio.to_thread.run_sync(forward_policy, interface)
    if state is not None:
        findings += handshakes(state, severity, hub=hub)
        status = await UapiDevice(interface).status()
        findings += offloads(interface, status)
        findings += mtu(interface, [peer for peer in state.peers if peer.endpoint is not None][:8], status)
    return findings


def tun(severity: Result) -> Finding:
    """Whether a device can be made at all."""
    if not TUN.exists():
        return Finding(
            hop="tun",
            result=severity,
            about=str(TUN),
            said="it is not there",
            next="modprobe tun; in a container, pass the device in (--device /dev/net/tun)",
        )
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        said, step = "this user may not open it", "run the same command with sudo"
        return Finding(hop="tun", result="unknown", about=str(TUN), said=said, next=step)
    except OSError as error:
        step = "modprobe tun; in a container, allow the device (its cgroup decides)"
        said = f"it cannot be opened: {error.strerror}"
        return Finding(hop="tun", result=severity, about=str(TUN), said=said, next=step)
    return Finding(hop="tun", result="ok", about=str(TUN), said="it can be opened")


def rights(process: int | None, severity: Result) -> Finding:
    """CAP_NET_ADMIN of the daemon; of this command where no daemon runs."""
    who = f"process {process}" if process is not None else "this command, no daemon runs"
    try:
        status = Path(f"/proc/{process or os.getpid()}/status").read_text()
        effective = int(status.partition("CapEff:")[2].split()[0], 16)
    except (OSError, ValueError, IndexError):
        return Finding(hop="rights", result="unknown", about=who, said="its capabilities cannot be read")
    if effective >> _CAP_NET_ADMIN & 1:
        return Finding(hop="rights", result="ok", about=who, said="it has CAP_NET_ADMIN")
    return Finding(
        hop="rights",
        result=severity if process is not None else "unknown",
        about=who,
        said="it lacks CAP_NET_ADMIN, without which it cannot lay routes",
        next="run it as root or by deploy/systemd's unit, or give up packets with --no-packets",
    )


async def find_device(interface: str, severity: Result) -> tuple[Finding, DeviceState | None]:
    """The device behind its UAPI socket."""
    device = UapiDevice(interface)
    about = f"{interface} at {device.path}"
    try:
        state = await device.state()
    except NoDevice:
        with suppress(RavenError, UapiError):
            state = await KernelDevice(interface).state()
            said = f"the kernel's, on UDP port {state.listen_port}, with {count(len(state.peers), 'peer')}"
            return Finding(hop="device", result="ok", about=interface, said=said), state
        said = "no device answers"
        if _has_interface(interface):
            said += ", though there is an interface of that name"
        step = (
            f"`journalctl -u raven-agent -u raven-gateway | grep raven-wg`; by hand: raven-wg -f {interface}"
        )
        return Finding(hop="device", result=severity, about=about, said=said, next=step), None
    except (RavenError, UapiError) as error:
        if isinstance(error.__cause__, PermissionError):
            step = "run the same command with sudo"
            return Finding(hop="device", result="unknown", about=about, said=str(error), next=step), None
        step = f"`wg show {interface}`; restart raven-wg if it hangs"
        return Finding(hop="device", result=severity, about=about, said=str(error), next=step), None
    said = f"it listens on UDP port {state.listen_port} and has {count(len(state.peers), 'peer')}"
    return Finding(hop="device", result="ok", about=about, said=said), state


def _has_interface(name: str) -> bool:
    return Path(f"/sys/class/net/{name}").exists()


def ipv6(interface: str) -> Finding:
    """Probes of the packet lane go over IPv6 addresses of the device."""
    why = InterfaceSysctls(interface).ipv6_off()
    if not why:
        return Finding(hop="ipv6", result="ok", about=interface, said="the device can have IPv6 addresses")
    step = "sysctl -w net.ipv6.conf.all.disable_ipv6=0; the network outside needs no IPv6"
    return Finding(
        hop="ipv6", result="note", about=interface, said=f"{why}: no probes, no IPv6 pods", next=step
    )


def forwarding(interface: str, pod_cidrs: list[str], severity: Result) -> list[Finding]:
    """The switches that let packets go on between the device and the pods."""
    if not Path(f"/proc/sys/net/ipv4/conf/{interface}").exists():
        return []
    six = any(":" in cidr for cidr in pod_cidrs)
    found = InterfaceSysctls(interface).forwarding_problems(ipv4=[], ipv6=[], ipv6_pods=six)
    if not found:
        return [
            Finding(hop="forwarding", result="ok", about=interface, said="the kernel forwards its packets")
        ]
    return [
        Finding(
            hop="forwarding",
            result=severity if pod_cidrs else "note",
            about=interface,
            said=problem,
            next=f"sysctl -w {problem.rpartition('set ')[2].partition(' ')[0]}",
        )
        for problem in found
    ]


def handshakes(state: DeviceState, severity: Result, *, hub: bool) -> list[Finding]:
    """Whether UDP passes, by the age of the last handshake with each peer; a hub's are in one line."""
    if hub:
        fresh = sum(_age(peer) is not None and (_age(peer) or 0) <= KEYS_EXPIRE for peer in state.peers)
        said = f"{fresh} of {count(len(state.peers), 'peer')} had a handshake in the last {KEYS_EXPIRE:.0f} s"
        return [Finding(hop="udp", result="ok" if fresh or not state.peers else "note", said=said)]
    return [_handshake(peer, severity) for peer in state.peers if peer.endpoint is not None]


def _age(peer: PeerState) -> float | None:
    return max(0.0, time.time() - peer.last_handshake) if peer.last_handshake else None


def _handshake(peer: PeerState, severity: Result) -> Finding:
    if is_relay(peer.endpoint):
        said = "no UDP passes to the gateway: packets go through the tunnel"
        step = "let UDP out to the port of the gateway, 4500 by default, and its answers in: it is faster"
        return Finding(hop="udp", result="note", said=said, next=step)
    seconds, about = _age(peer), str(peer.endpoint)
    if seconds is not None and seconds <= KEYS_EXPIRE:
        return Finding(hop="udp", result="ok", about=about, said=f"last handshake {age(seconds)} ago")
    since = "no handshake yet" if seconds is None else f"no handshake for {age(seconds)}"
    said = f"{since}; sent {peer.tx_bytes} bytes, received {peer.rx_bytes}"
    step = (
        f"let UDP out to {about} and its answers in; at the gateway, open that UDP port in its cloud's"
        " firewall and compare it with --wg-listen"
    )
    return Finding(hop="udp", result=severity, about=about, said=said, next=step)


def offloads(interface: str, status: Status | None) -> list[Finding]:
    """What the kernel does not do for the device; nothing for one that does not tell."""
    if status is None:
        return []
    off = [f"{name}: {why}" for name, why in status.offloads.items() if why]
    said = f"off: {'; '.join(off)}" if off else "all on"
    step = "packets pass without them, slower" if off else ""
    return [Finding(hop="offloads", result="note" if off else "ok", about=interface, said=said, next=step)]


def mtu(interface: str, peers: list[PeerState], status: Status | None = None) -> list[Finding]:
    """Whether the device's packets fit the path without fragments, as far as is known.

    A peer that has answered for a size counts for more than what the kernel thinks of the path.
    """
    try:
        own = int(Path(f"/sys/class/net/{interface}/mtu").read_text())
    except (OSError, ValueError):
        return []
    findings = []
    for peer in peers:
        endpoint = peer.endpoint
        assert endpoint is not None
        known = status.peers.get(peer.public_key) if status is not None else None
        if known is not None and known.proven_mtu:
            said = f"packets of {known.proven_mtu} bytes arrive; {interface} has {own}"
            if known.proven_mtu < own:
                said += ", and senders of larger ones are told"
            findings.append(Finding(hop="mtu", result="ok", about=str(endpoint), said=said))
            continue
        path = route_mtu(endpoint.host, endpoint.port)
        if path is None:
            continue
        room = path - OVERHEAD[6 if ":" in endpoint.host else 4]
        said = f"the path takes {path} bytes, so {room} inside; {interface} has {own}"
        step = "" if own <= room else f"ip link set {interface} mtu {room}; larger packets go in fragments"
        result: Result = "ok" if own <= room else "note"
        findings.append(Finding(hop="mtu", result=result, about=str(endpoint), said=said, next=step))
    return findings


def route_mtu(host: str, port: int) -> int | None:
    """What the kernel knows of the path to an address, without sending anything; None when no route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        return known_path_mtu(sock)
    return None
