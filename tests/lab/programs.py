"""The programs of other people that the lab drives: exporters, Prometheus, ssh, iperf3, nginx.

Each starts one in a machine and returns when it listens. None knows anything of Raven.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.lab.process import Process
from tests.lab.waiting import wait_until

NEEDED: Mapping[str, str] = {  # program: Debian package
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "curl": "curl",
    "wg": "wireguard-tools",
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "nc": "netcat-openbsd",
    "nginx": "nginx-light",
    "tinyproxy": "tinyproxy-bin",
}


def named(machine: Machine, *command: str) -> tuple[str, ...]:
    """`command` with the machine's name as its host name, so that what answers says who it is."""
    script = f"hostname {machine.name} && exec {shlex.join(command)}"
    return ("unshare", "--uts", "sh", "-c", script)


def node_exporter(machine: Machine, port: int = 9100) -> Process:
    """Debian's node exporter on all addresses, as the package starts it."""
    command = named(machine, "prometheus-node-exporter", f"--web.listen-address=:{port}")
    return machine.start(*command, name=f"node-exporter@{machine.name}").ready(port)


class Prometheus(NamedTuple):
    """A Prometheus server and the way to its API."""

    machine: Machine
    process: Process

    def targets(self) -> list[dict[str, Any]]:
        """Its active targets, as its API describes them."""
        answer = self.machine.run(
            "curl", "-sS", "-m", "5", "http://127.0.0.1:9090/api/v1/targets?state=active"
        )
        targets: list[dict[str, Any]] = json.loads(answer.out)["data"]["activeTargets"]
        return targets

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result vector of an instant query."""
        url = "http://127.0.0.1:9090/api/v1/query"
        answer = self.machine.run(
            "curl", "-sS", "-m", "5", "-G", "--data-urlencode", f"query={expression}", url
        )
        result: list[dict[str, Any]] = json.loads(answer.out)["data"]["result"]
        return result


def prometheus(machine: Machine, configuration: str) -> Prometheus:
    """Debian's Prometheus with `configuration`, its API on 127.0.0.1:9090 of the machine."""
    data = machine.directory / f"prometheus@{machine.name}"
    data.mkdir()
    (data / "prometheus.yml").write_text(configuration)
    process = machine.start(
        "prometheus",
        f"--config.file={data}/prometheus.yml",
        f"--storage.tsdb.path={data}/tsdb",
        "--web.listen-address=127.0.0.1:9090",
        name=f"prometheus@{machine.name}",
    )
    return Prometheus(machine, process.ready(9090))


class SshServer(NamedTuple):
    """An OpenSSH server with keys made for this run."""

    process: Process
    port: int
    key: Path
    known_hosts: Path

    def client(self, host: str, *options: str) -> tuple[str, ...]:
        """The ssh command that logs in as root at `host`, trusting this server's key only."""
        return (
            *("ssh", "-F", "/dev/null", "-p", str(self.port), "-i", str(self.key)),
            *("-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "HostKeyAlias=lab"),
            *options,
            f"root@{host}",
        )

    def client_configuration(self, proxy_command: str) -> Path:
        """A file for `ssh -F` with which any host name leads to this server, through `proxy_command`."""
        path = self.key.with_name("ssh_config")
        path.write_text(
            f"User root\nPort {self.port}\nIdentityFile {self.key}\nIdentitiesOnly yes\nBatchMode yes\n"
            f"ConnectTimeout 5\nUserKnownHostsFile {self.known_hosts}\nHostKeyAlias lab\n"
            f"ProxyCommand {proxy_command}\n"
        )
        return path


def sshd(machine: Machine, port: int = 2222, *, max_startups: int = 10) -> SshServer:
    """OpenSSH's server on all addresses of the machine, one throw-away key allowed in as root."""
    directory = machine.directory / f"sshd@{machine.name}"
    directory.mkdir(mode=0o700)
    for name in ("host", "client"):
        machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name))
    (directory / "authorized_keys").write_text((directory / "client.pub").read_text())
    known_hosts = directory / "known_hosts"
    known_hosts.write_text("lab " + (directory / "host.pub").read_text())
    configuration = directory / "sshd_config"
    configuration.write_text(
        f"Port {port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized_keys\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nUseDNS no\nPrintMotd no\nLogLevel ERROR\n"
        f"MaxStartups {max_startups}\n"
        "AllowTcpForwarding yes\nGatewayPorts no\nSubsystem sftp internal-sftp\n"
    )
    # sshd insists on /run/sshd. A private /run leaves the host's as it is.
    script = (
        f"hostname {machine.name} && mount -n -t tmpfs lab /run && mkdir -m 755 /run/sshd && "
        f"exec /usr/sbin/sshd -D -e -f {shlex.quote(str(configuration))}"
    )
    process = machine.start("unshare", "--uts", "--mount", "sh", "-c", script, name=f"sshd@{machine.name}")
    return SshServer(process.ready(port), port, directory / "client", known_hosts)


def iperf_server(machine: Machine, port: int = 5201) -> Process:
    return machine.start("iperf3", "-s", "-p", str(port), name=f"iperf3@{machine.name}-{port}").ready(port)


class Transfer(NamedTuple):
    """What iperf3 measured: the whole, and each second of it."""

    gigabits: float  # Gb/s, at the receiver
    seconds: list[float]  # Gb/s of each second, at the sender


def iperf_command(server: str, *, seconds: float, port: int = 5201) -> tuple[str, ...]:
    """iperf3's client; -C cubic because some hosts default to BBR, which makes figures differ."""
    return ("iperf3", "-c", server, "-p", str(port), "-t", f"{seconds:g}", "-C", "cubic", "-J")


def iperf_report(said: str) -> Any:
    """iperf3's JSON; LabError with iperf3's own words when it failed."""
    try:
        report = json.loads(said)
    except ValueError:
        raise LabError(f"iperf3 said {said.strip()[-200:]!r}") from None
    if "error" in report:
        raise LabError(f"iperf3: {report['error']}")
    return report


def iperf_result(said: str) -> Transfer:
    """The same as a transfer."""
    report = iperf_report(said)
    seconds = [interval["sum"]["bits_per_second"] / 1e9 for interval in report["intervals"]]
    return Transfer(report["end"]["sum_received"]["bits_per_second"] / 1e9, seconds)


def iperf(machine: Machine, server: str, *, seconds: float = 2, port: int = 5201) -> Transfer:
    """One TCP stream from the machine to an `iperf_server`."""
    command = iperf_command(server, seconds=seconds, port=port)
    return iperf_result(machine.run(*command, seconds=seconds + 15, check=False).out)


def ping(machine: Machine, address: str, *, count: int = 3) -> float:
    """The mean round trip in milliseconds; LabError unless every echo came back."""
    answer = machine.run("ping", "-n", "-q", "-c", str(count), "-i", "0.1", "-W", "1", address, check=False)
    if answer.code or f"{count} received" not in answer.out:
        raise LabError(f"{machine.name} cannot ping {address}: {answer.out.strip() or answer.err.strip()}")
    return float(answer.out.rpartition("=")[2].split("/")[1])


def ping_until(machine: Machine, address: str, *, seconds: float) -> None:
    """Returns after the first answered ping; LabError after `seconds` without one."""

    def answered() -> bool:
        return machine.run("ping", "-n", "-c", "1", "-W", "1", address, check=False).code == 0

    wait_until(answered, what=f"{address} to answer {machine.name}'s ping", seconds=seconds)


def nginx(machine: Machine, root: Path, port: int = 8080) -> Process:
    """nginx serving the files of `root`."""
    directory = machine.directory / f"nginx@{machine.name}"
    directory.mkdir()
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; user root; worker_processes 1; pid {directory}/pid; error_log stderr;"
        f"events {{}} http {{ access_log off; sendfile on; {temporary}"
        f"server {{ listen {port}; listen [::]:{port}; root {root}; }} }}"
    )
    command = ("nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr")
    return machine.start(*command, name=f"nginx@{machine.name}").ready(port)


def nginx_balancer(machine: Machine, target: str, *, port: int = 443) -> Process:
    """nginx as a TLS-passthrough balancer: *.raven goes to `target` with a PROXY protocol header, the rest
    nowhere.
    """
    directory = machine.directory / f"balancer@{machine.name}"
    directory.mkdir()
    (directory / "nginx.conf").write_text(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;"
        f"daemon off; user root; worker_processes 1; pid {directory}/pid; error_log stderr;"
        f"events {{}} stream {{ map $ssl_preread_server_name $chosen {{ ~\\.raven$ {target}; }}"
        f"server {{ listen {port}; ssl_preread on; proxy_pass $chosen; proxy_protocol on; }} }}"
    )
    command = ("nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr")
    return machine.start(*command, name=f"balancer@{machine.name}").ready(port)


def tinyproxy(machine: Machine, *, user: str, password: str, connect_port: int, port: int = 3128) -> Process:
    """An HTTP proxy that wants a password, and lets CONNECT to one port pass."""
    configuration = machine.directory / f"tinyproxy@{machine.name}.conf"
    configuration.write_text(
        f"Port {port}\nTimeout 600\nMaxClients 50\nBasicAuth {user} {password}\nConnectPort {connect_port}\n"
    )
    command = ("tinyproxy", "-d", "-c", str(configuration))
    return machine.start(*command, name=f"tinyproxy@{machine.name}").ready(port)
