"""A virtual machine on a cable of a lab machine, and its in-kernel WireGuard.

qemu without KVM, so it runs wherever qemu does; the guest boots in about eight seconds. It runs shell scripts
that are posted to it over the cable. It is the other implementation: nothing of Raven is in it.
"""

import http.client
import socket
from pathlib import Path

from tests.kernel.image import Image
from tests.lab import wires
from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until

HOST4, HOST6 = "10.77.0.1", "fd77::1"
GUEST4, GUEST6 = "10.77.0.2", "fd77::2"
BOOT_SECONDS = 60
# The kernel's own ChaCha20 is twice as fast without SIMD when both are emulated; rdrand saves a wait for
# randomness at boot.
_CPU = "qemu64,+rdrand"


class Guest:
    """Boots on construction, and is there when `wait` returns."""

    def __init__(self, host: Machine, image: Image, *, memory: int = 192) -> None:
        """`memory` in MiB."""
        self._host = host
        wires.ip(
            [
                "tuntap add dev kernel mode tap",
                f"addr add {HOST4}/24 dev kernel",
                f"addr add {HOST6}/64 dev kernel nodad",
                "link set kernel up",
            ],
            namespace=host.namespace,
        )
        self.console = Path(host.directory, "console.log")
        self.process = host.start(
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", "tcg", "-cpu", _CPU, "-smp", "2", "-m", str(memory)),
            *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
            *("-append", "console=ttyS0 panic=-1 mitigations=off quiet"),
            *("-serial", f"file:{self.console}"),
            *("-netdev", "tap,id=cable,ifname=kernel,script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=cable,romfile="),
            name="qemu",
        )

    def wait(self) -> None:
        """Returns when the guest runs scripts; LabError with its console otherwise."""

        def answers() -> bool:
            if not self.process.alive:
                raise LabError(f"qemu ended\n{self.process.tail()}")
            try:
                return self.run("echo ready") == "ready"
            except OSError:
                return False

        try:
            wait_until(answers, what="the guest to boot", seconds=BOOT_SECONDS)
        except LabError as error:
            console = self.console.read_text(errors="replace") if self.console.exists() else ""
            raise LabError(f"{error}\n{console[-2000:]}") from None

    def run(self, script: str, *, seconds: float = 15) -> str:
        """What a shell script says in the guest; LabError when it fails."""

        def connect() -> socket.socket:
            return socket.create_connection((GUEST4, 80), timeout=1)

        connection = http.client.HTTPConnection(GUEST4, timeout=seconds)
        connection.sock = self._host.inside(connect)
        connection.sock.settimeout(seconds)
        try:
            connection.request("POST", "/cgi-bin/run", body=("set -e\n" + script + "\n").encode())
            said, _, status = connection.getresponse().read().decode().rstrip("\n").rpartition("\nexit ")
        except http.client.HTTPException as error:
            raise LabError(f"the guest's answer broke off: {error!r}") from error
        finally:
            connection.close()
        if status != "0":
            raise LabError(f"in the guest, {script!r} ended with {status or 'no status'}: {said.strip()}")
        return said.strip()

    def setconf(self, *lines: str) -> None:
        """`wg setconf wg0` with `lines`; its peers start anew."""
        text = "\n".join(lines)
        self.run(f"wg setconf wg0 /dev/stdin <<'end'\n{text}\nend")

    def show(self, what: str) -> dict[str, str]:
        """`wg show wg0`'s table: a peer's key and what follows."""
        lines = self.run(f"wg show wg0 {what}").splitlines()
        return {key: value for key, _, value in (line.partition("\t") for line in lines)}

    def ping(self, address: str, *, count: int = 1, size: int = 56) -> None:
        """All of `count` echoes come back; LabError otherwise."""
        said = self.run(f"ping -c {count} -s {size} -W 2 {address}", seconds=count + 10)
        assert f" {count} packets received" in said, said
