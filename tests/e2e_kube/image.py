"""The image of every container in the test cluster: busybox, and what it needs to answer.

A docker archive that `ctr images import` takes, one layer under two names: `BUSYBOX` with a shell and all
applets, and `PAUSE` for the sandboxes of pods.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = "localhost/raven/busybox:1"
PAUSE = "localhost/raven/pause:1"
_EPOCH = "2024-01-01T00:00:00Z"


def write(archive: Path, busybox: Path) -> None:
    """Writes the archive with `busybox` in it."""
    layer = _layer(busybox)
    digest = hashlib.sha256(layer).hexdigest()
    manifest = []
    with tarfile.open(archive, "w") as tar:
        _add(tar, f"{digest}/layer.tar", layer)
        for name, command in ((BUSYBOX, ["/bin/sh"]), (PAUSE, ["/bin/sleep", "2147483647"])):
            config = {
                "architecture": "amd64",
                "os": "linux",
                "created": _EPOCH,
                "config": {"Env": ["PATH=/bin"], "Cmd": command, "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
                "history": [{"created": _EPOCH, "created_by": "tests/e2e_kube/image.py"}],
            }
            content = json.dumps(config).encode()
            file = f"{hashlib.sha256(content).hexdigest()}.json"
            _add(tar, file, content)
            manifest.append({"Config": file, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]})
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _layer(busybox: Path) -> bytes:
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "root", "run", "tmp", "www"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(directory)
        _add(tar, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\n")
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))
