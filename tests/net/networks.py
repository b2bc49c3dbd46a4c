"""One end of the packet lane of a test: `network_driver` on a host, and calls into it."""

import socket
from pathlib import Path
from typing import Any

import msgspec

from raven.keys import PublicKey
from raven.topology.model import probe_address
from tests.lab.machine import Machine
from tests.lab.process import Process
from tests.lab.waiting import wait_until
from tests.net.lanes import WIREGUARD_GO, make_keys
from tests.net.network_driver import Answer, Call, Orders


class CallError(Exception):
    """What the called method raised, in its words."""


class Network:
    """A gateway's end where `endpoint` is given, an agent's otherwise; not running until `start`."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        *,
        pod_cidrs: list[str],
        program: list[str] | None = WIREGUARD_GO,
        **orders: Any,
    ) -> None:
        self.machine = machine
        self.name = name
        self.state = machine.directory / f"state-{name}"
        self.state.mkdir()
        self.file = machine.directory / f"{name}.json"
        private, self.public_key = make_keys(machine)
        self.orders = Orders(
            name=name,
            interface=machine.interface,
            private_key=private,
            public_key=self.public_key,
            state_dir=str(self.state),
            pod_cidrs=pod_cidrs,
            program=program,
            **orders,
        )
        self.process: Process | None = None

    def start(self, *wrapper: str) -> Process:
        """Starts it, below `wrapper` if given; returns when the first attempt has ended."""
        self.file.write_bytes(msgspec.json.encode(self.orders))
        self._socket.unlink(missing_ok=True)
        command = ("python", "-m", "tests.net.network_driver", str(self.file))
        process = self.process = self.machine.start(*wrapper, *command, name=self.name)

        def answers() -> bool:
            assert process.alive, process.text()
            try:
                self.call("lane")
            except OSError:
                return False
            return True

        wait_until(answers, what=f"{self.name} to answer", seconds=40)
        return process

    def stop(self) -> int:
        assert self.process is not None
        return self.process.stop(seconds=20)

    def call(self, what: str, **arguments: Any) -> Any:
        """The method's result as JSON has it; CallError when it raised."""
        with socket.socket(socket.AF_UNIX) as asker:
            asker.settimeout(20)
            asker.connect(str(self._socket))
            asker.sendall(msgspec.json.encode(Call(what=what, **arguments)) + b"\n")
            line = b""
            while not line.endswith(b"\n"):
                more = asker.recv(65536)
                assert more, self.process and self.process.text()
                line += more
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise CallError(answer.error)
        return answer.result

    @property
    def probe_address(self) -> str:
        return str(probe_address(PublicKey.from_base64(self.public_key)))

    @property
    def _socket(self) -> Path:
        return Path(f"{self.file}.sock")
