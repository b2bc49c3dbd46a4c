"""What people do with kubectl, by every way and protocol: answers are right, and both sides see an end."""

import hashlib
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e_kube import pods
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.terminal import Running
from tests.lab.errors import LabError
from tests.lab.waiting import wait_until

COPY = 100 << 20  # bytes each way; `make bench-kube` copies a GB
SITES = ("site-a", "site-b")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("node", SITES)
def test_logs(way: ApiServer, node: str) -> None:
    lines = way.kubectl("logs", f"ticker-{node}").out.splitlines()
    assert lines == [f"tick {number}" for number in range(len(lines))]
    assert lines


def test_logs_follow_and_end_with_the_reader(way: ApiServer) -> None:
    with Running(way, "logs", "-f", "--tail=1", "ticker-site-a") as logs:
        last = int(logs.until("\n").split()[-1])
        logs.until(f"tick {last + 2}\n")
        logs.interrupt()
        logs.wait()


@pytest.mark.parametrize("node", SITES)
def test_exec_runs_on_the_right_node_and_tells_the_status(streaming: ApiServer, node: str) -> None:
    pod = f"ticker-{node}"
    ran = streaming.kubectl(
        "exec", pod, "--", "sh", "-c", "cat /www/name; echo oops >&2; exit 7", check=False
    )
    assert ran.out == f"{node}\n"
    assert ran.code == 7
    assert "oops\n" in ran.err


def test_exec_carries_input_to_the_last_byte(streaming: ApiServer) -> None:
    text = secrets.token_hex(1 << 20)
    ran = streaming.kubectl("exec", "-i", "ticker-site-a", "--", "sha256sum", text=text, seconds=60)
    assert ran.out.split()[0] == hashlib.sha256(text.encode()).hexdigest()


def test_an_interactive_shell_with_a_terminal_that_is_resized(streaming: ApiServer) -> None:
    with Running(streaming, "exec", "-it", "ticker-site-a", "--", "sh", tty=True) as shell:
        shell.resize(41, 97)
        shell.type("echo begin-$((6 * 7)); cat /www/name; tty\n")
        said = shell.until("/dev/pts/")
        assert "begin-42\n" in said
        assert "site-a\n" in said

        def resized() -> bool:
            shell.type("stty size\n")
            try:
                return "33 111" in shell.until("33 111", seconds=1)
            except LabError:
                return False

        shell.resize(33, 111)
        wait_until(resized, what="the shell to see the new size", seconds=15)
        shell.type("sh -c 'echo busy-$((1 + 1)); exec sleep 100'\n")
        shell.until("busy-2\n")
        shell.type("\x03")  # Ctrl-C goes to what runs over there
        shell.type("exit 5\n")
        assert shell.wait() == 5


def test_attach(cluster: Cluster, streaming: ApiServer) -> None:
    name = f"cat-{streaming.port}"
    pods.deploy(cluster.server, pods.pod(name, "site-b", "exec cat", stdin=True))
    with Running(streaming, "attach", "-i", name) as attached:
        wait_until(lambda: _echoes(attached), what="attach to answer", seconds=30)
        attached.interrupt()
        attached.wait()


def _echoes(attached: Running) -> bool:
    """cat answers once kubectl is attached; what is typed before may be lost."""
    attached.type("hello\n")
    try:
        return "hello\n" in attached.until("hello\n", seconds=2)
    except LabError:
        return False


@pytest.mark.parametrize("node", SITES)
def test_port_forward(streaming: ApiServer, node: str) -> None:
    big = secrets.token_hex(20)
    streaming.kubectl("exec", f"ticker-{node}", "--", "sh", "-c", f"yes {big} | head -c 5000000 >/www/big")
    wanted = (f"{big}\n" * (5_000_000 // 41 + 1))[:5_000_000]
    with Running(streaming, "port-forward", f"ticker-{node}", ":8080") as forward:
        port = int(forward.until("->").split("127.0.0.1:")[1].split()[0])

        def get(path: str) -> str:
            return streaming.machine.run(
                "curl", "-sS", "-m", "20", f"http://127.0.0.1:{port}/{path}", seconds=30
            ).out

        assert get("name") == f"{node}\n"
        with ThreadPoolExecutor(4) as threads:  # streams of one connection, side by side
            assert all(body == wanted for body in threads.map(get, ["big"] * 4))
        forward.interrupt()
        forward.wait()


def test_cp_there_and_back(cluster: Cluster, streaming: ApiServer, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(secrets.token_bytes(1 << 20) * (COPY >> 20))
    streaming.kubectl("cp", str(there), "ticker-site-a:/tmp/copied", seconds=120)
    summed = streaming.kubectl("exec", "ticker-site-a", "--", "sha256sum", "/tmp/copied").out.split()[0]
    assert summed == digest(there)
    streaming.kubectl("cp", "ticker-site-a:/tmp/copied", str(back), seconds=120)
    assert digest(back) == summed
    streaming.kubectl("exec", "ticker-site-a", "--", "rm", "/tmp/copied")


@pytest.mark.parametrize("node", SITES)
def test_what_a_node_uses(way: ApiServer, node: str) -> None:
    """The kubelet's summary API, which metrics servers read for `kubectl top`, and Prometheus metrics."""
    proxy = f"/api/v1/nodes/{node}/proxy"

    def summary() -> bool:
        told = json.loads(way.kubectl("get", "--raw", f"{proxy}/stats/summary").out)
        assert told["node"]["nodeName"] == node
        return any(pod["podRef"]["name"] == f"ticker-{node}" for pod in told["pods"])

    wait_until(summary, what="the pod in the summary", seconds=60)
    assert "kubelet_running_pods" in way.kubectl("get", "--raw", f"{proxy}/metrics").out
    assert way.kubectl("get", "--raw", f"{proxy}/healthz").out.strip() == "ok"


def test_a_killed_kubectl_is_an_end_of_input_at_the_edge(streaming: ApiServer) -> None:
    mark = f"/tmp/{secrets.token_hex(8)}"
    script = f"echo up; cat >/dev/null; touch {mark}"
    with Running(streaming, "exec", "-i", "ticker-site-a", "--", "sh", "-c", script) as command:
        command.until("up\n")
        command.kill()
    gone = ("exec", "ticker-site-a", "--", "ls", mark)
    wait_until(lambda: streaming.kubectl(*gone, check=False).code == 0, what="the end of input", seconds=20)
