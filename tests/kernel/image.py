"""What a small virtual machine boots: Debian's cloud kernel and an initramfs with WireGuard in it.

The kernel and busybox come from their Debian packages, unpacked into the cache and not installed; `wg` and
`iperf3` are this machine's own. Nothing here runs the machine: that is `guest`.
"""

import lzma
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

KERNEL = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_net", "wireguard")
SETUP_SECONDS = 120  # downloads included: 30 MB and a second's work on a line that deserves the name

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /etc
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up; ip link set eth0 up
ip addr add GUEST4/24 dev eth0; ip addr add GUEST6/64 dev eth0
exec httpd -f -p 80 -h /www
"""

# Runs what is posted to it. The status comes last, as HTTP's own was sent before anything ran.
RUN = """#!/bin/sh
script=/tmp/script.$$
head -c "$CONTENT_LENGTH" >$script
printf 'Content-Type: text/plain\\r\\n\\r\\n'
sh $script </dev/null 2>&1
printf '\\nexit %d\\n' $?
"""


class NotAvailableError(Exception):
    """No virtual machine can be made here; the text says why."""


class Image(NamedTuple):
    kernel: Path
    initramfs: Path
    version: str


def build(directory: Path, *, guest4: str, guest6: str, more: Mapping[str, bytes] | None = None) -> Image:
    """The kernel, and an initramfs in `directory`, with `more` files. NotAvailableError: what is missing."""
    for program in ("qemu-system-x86_64", "apt-get", "dpkg-deb", "wg", "iperf3"):
        if shutil.which(program) is None:
            raise NotAvailableError(f"{program} is not installed")
    if os.uname().machine != "x86_64":
        raise NotAvailableError("the virtual machine is an amd64 one")
    deadline = time.monotonic() + SETUP_SECONDS
    tree = _unpacked(_concrete(KERNEL, deadline), deadline)
    busybox = _unpacked("busybox-static", deadline) / "bin/busybox"
    (kernel,) = tree.glob("boot/vmlinuz-*")
    (modules,) = (path for path in tree.glob("**/lib/modules/*") if (path / "kernel").is_dir())
    loaded = _load_order(modules)
    init = INIT.replace("GUEST4", guest4).replace("GUEST6", guest6)
    files = {
        "init": init.encode(),
        "www/cgi-bin/run": RUN.encode(),
        "modules/order": "".join(f"{name}\n" for name in loaded).encode(),
        "bin/busybox": busybox.read_bytes(),
        **{f"modules/{name}": content for name, content in loaded.items()},
    }
    for program in ("wg", "iperf3"):
        files |= _with_libraries(program)
    files |= more or {}
    initramfs = directory / "initramfs"
    initramfs.write_bytes(b"".join(_cpio(files)))
    return Image(kernel, initramfs, modules.name)


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "raven-tests"


def _run(*command: str, deadline: float, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=max(1.0, deadline - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotAvailableError(f"{' '.join(command)} took too long") from None
    if done.returncode:
        raise NotAvailableError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def _concrete(package: str, deadline: float) -> str:
    """The package of an image that a metapackage stands for, a cached one where there is any."""
    cached = sorted(cache().glob("linux-image-[0-9]*")) if cache().is_dir() else []
    if cached:
        return cached[-1].name
    found = re.findall(
        r"Depends: (linux-image-\d\S+)", _run("apt-cache", "depends", package, deadline=deadline)
    )
    if not found:
        raise NotAvailableError(f"apt knows no kernel behind {package}; apt-get update may help")
    name: str = found[-1]
    return name


def _unpacked(package: str, deadline: float) -> Path:
    """Where the files of a Debian package are, downloaded unless they are in the cache."""
    tree = cache() / package
    if tree.is_dir():
        return tree
    cache().mkdir(parents=True, exist_ok=True)
    work = cache() / f".{package}.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        # The sandbox user of apt cannot write into root's cache.
        _run(
            "apt-get",
            "-qq",
            "-o",
            "APT::Sandbox::User=root",
            "download",
            package,
            deadline=deadline,
            cwd=work,
        )
        (archive,) = work.glob("*.deb")
        _run("dpkg-deb", "-x", str(archive), str(work / "tree"), deadline=deadline)
        (work / "tree").rename(tree)
    except FileExistsError:  # another run was quicker
        pass
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tree


def _load_order(tree: Path) -> dict[str, bytes]:
    """The modules by file name, each after those it needs."""

    def name_of(path: str) -> str:
        return Path(path).name.partition(".ko")[0].replace("-", "_")

    files = {name_of(str(path)): path for path in tree.rglob("*.ko*")}
    built_in = {name_of(line) for line in (tree / "modules.builtin").read_text().split()}
    ordered: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in built_in or f"{name}.ko" in ordered:
            return
        if name not in files:
            raise NotAvailableError(f"the kernel package has no module {name}")
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in needs[1].decode().split(",") if needs else ():
            if needed:
                visit(needed.replace("-", "_"))
        ordered[f"{name}.ko"] = content

    for name in MODULES:
        visit(name)
    return ordered


def _with_libraries(program: str) -> dict[str, bytes]:
    """A program of this machine and the shared libraries it loads, by their paths."""
    path = shutil.which(program)
    assert path is not None
    linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    libraries = re.findall(r"(/\S+) \(0x", linked)
    return {
        f"bin/{program}": Path(path).read_bytes(),
        **{name.lstrip("/"): Path(name).read_bytes() for name in libraries},
    }


def _cpio(files: Mapping[str, bytes]) -> Iterable[bytes]:
    """A "newc" archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst), all executable."""
    directories = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    entries = [(name, 0o40755, b"") for name in sorted(directories)]
    entries += [(name, 0o100755, content) for name, content in files.items()]
    entries += [("TRAILER!!!", 0, b"")]
    for inode, (name, mode, content) in enumerate(entries, 1):
        #  inode, mode, uid, gid, links, mtime, size, device (4 numbers), length of the name, checksum
        numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
        yield head + bytes(-len(head) % 4)
        yield content + bytes(-len(content) % 4)
