"""The kernel switches that decide whether packets pass a WireGuard interface.

Switches of our own interface are set, because they go with it. Switches of the whole host are the operator's:
they are read, and a sentence says which one is in the way and what to set. Blocking, for microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# The namespace of the thread that opens a file below it decides whose switches these are.
SYSCTL = Path("/proc/sys/net")
_ADDR_GEN_NONE = "1"  # IN6_ADDR_GEN_MODE_NONE, as the kernel's WireGuard sets it: no link-local address, so
# no router solicitations into a device that would drop them as belonging to no peer


@dataclass(slots=True)
class InterfaceSysctls:
    """The switches of one interface; remembers what it changed."""

    name: str
    root: Path = SYSCTL
    before: dict[str, str] = field(default_factory=dict)  # key below `root`: value before us

    def prepare(self, *, ipv6_pods: bool) -> None:
        """Lets packets that arrive on the interface be forwarded, to pods here and to other sites.

        rp_filter stays as it is: each source that may arrive has its route over this interface, so even the
        strict check passes.
        """
        self._set(f"ipv4/conf/{self.name}/forwarding", "1")
        self._set(f"ipv6/conf/{self.name}/addr_gen_mode", _ADDR_GEN_NONE)
        if ipv6_pods:
            self._set(f"ipv6/conf/{self.name}/force_forwarding", "1")  # from Linux 6.17

    def restore(self) -> None:
        """Sets back what `prepare` changed, as far as the interface still exists."""
        for key, value in self.before.items():
            self._write(key, value)
        self.before.clear()

    def ipv6_off(self) -> str:
        """Why the interface can have no IPv6 address, as the start of a sentence; "" when it can."""
        if not (self.root / "ipv6").exists():
            return "IPv6 is not in this kernel (or it was started with ipv6.disable=1)"
        if self._read(f"ipv6/conf/{self.name}/disable_ipv6") != "1":
            return ""
        if self._read("ipv6/conf/all/disable_ipv6") == "1":
            return "IPv6 is disabled on this host (net.ipv6.conf.all.disable_ipv6=1)"
        return f"IPv6 is disabled on {self.name} (net.ipv6.conf.{self.name}.disable_ipv6=1)"

    def forwarding_problems(self, *, ipv4: Iterable[str], ipv6: Iterable[str], ipv6_pods: bool) -> list[str]:
        """Sentences about pods that nobody forwards for.

        `ipv4` and `ipv6` are the interfaces that pods of this host are behind; `ipv6_pods` says whether IPv6
        is to be routed at all. IPv4 goes by the switch of the interface a packet arrives on. IPv6 asks
        the switch of the whole host, or, from Linux 6.17, force_forwarding of the interface.
        """
        problems = []
        if self._read(f"ipv4/conf/{self.name}/forwarding") == "0":
            problems.append(
                f"packets from {self.name} are not forwarded over IPv4, and the switch cannot be set: "
                f"set net.ipv4.conf.{self.name}.forwarding=1"
            )
        problems += [
            f"pods behind {name} cannot send to other sites over IPv4: set net.ipv4.ip_forward=1 "
            f"(net.ipv4.conf.{name}.forwarding is 0)"
            for name in sorted(set(ipv4))
            if self._read(f"ipv4/conf/{name}/forwarding") == "0"
        ]
        if self._read("ipv6/conf/all/forwarding") != "0":
            return problems
        if ipv6_pods and self._read(f"ipv6/conf/{self.name}/force_forwarding") != "1":
            problems.append(
                f"packets from {self.name} are not forwarded over IPv6: set net.ipv6.conf.all.forwarding=1"
            )
        problems += [
            f"pods behind {name} cannot send to other sites over IPv6: set net.ipv6.conf.all.forwarding=1"
            for name in sorted(set(ipv6))
            if self._read(f"ipv6/conf/{name}/force_forwarding") != "1"
        ]
        return problems

    def _set(self, key: str, value: str) -> None:
        found = self._read(key)
        if found is not None and found != value and self._write(key, value):
            self.before.setdefault(key, found)

    def _read(self, key: str) -> str | None:
        try:
            return (self.root / key).read_text().strip()
        except OSError:
            return None  # older kernel, no IPv6, or the interface is gone

    def _write(self, key: str, value: str) -> bool:
        try:
            (self.root / key).write_text(value)
        except OSError:
            return (
                False  # gone, or /proc/sys is read-only as in a container: the problems tell what is missing
            )
        return True
