"""This Python and Raven, as files for a guest's initramfs: what the daemons load here, and no more.

The modules go as byte code without their source, which needs no check of times and no compiler: an emulated
processor takes minutes over that.
"""

import json
import subprocess
import sys
import sysconfig
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import compile as compile_file

_REPOSITORY = Path(__file__).parents[2]
# Loads all that the daemons may, and tells their files: modules, and the shared libraries below them.
_LOAD = """
import importlib, json, pkgutil, sys
for package in ("raven", "agent", "gateway", "cryptography"):  # the last loads some of it from Rust
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not found.name.startswith(("raven.dataplane", "raven.ip", "raven.wg")):  # of `raven-wg` alone
            importlib.import_module(found.name)
for name in ("encodings.idna", "encodings.ascii", "encodings.latin_1", "_strptime", "multiprocessing"):
    importlib.import_module(name)
from raven.net.pyroute import IPRoute
with IPRoute() as ipr:
    list(ipr.link("dump"))
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
with open("/proc/self/maps") as maps:
    mapped = {line.split()[-1] for line in maps if ".so" in line}
print(json.dumps(sorted({file for file in files if file} | mapped)))
"""
_COMMAND = """#!/bin/sh
export PYTHONHOME={home} PYTHONPATH={path} LANG=C.UTF-8
exec {interpreter} -c 'import sys; sys.argv[0] = "{name}"; from {module} import main; main()' "$@"
"""
_PROGRAMS = {"raven-agent": "agent.main", "raven-gateway": "gateway.main", "ravenctl": "raven.cli.main"}


def files(directory: Path) -> dict[str, bytes]:
    """By path without the leading slash: the interpreter, what it loads, and Raven's commands in /bin.

    `directory` takes byte code that has to be made.
    """
    said = subprocess.run(
        [sys.executable, "-c", _LOAD], cwd=_REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    interpreter = Path(sys.executable).resolve()
    packed = {_inside(interpreter): interpreter.read_bytes()}
    for loaded in json.loads(said):
        path = Path(loaded)
        if path.suffix == ".py":
            packed[_inside(path.with_suffix(".pyc"))] = _byte_code(path, directory)
        elif path.is_file():
            # A library is asked for by a name that points to its file here.
            for asked in (path, *path.parent.glob(f"{path.name.partition('.so')[0]}.so.*")):
                if asked.resolve() == path.resolve():
                    packed[_inside(asked)] = path.read_bytes()
    linked = subprocess.run(["ldd", str(interpreter)], capture_output=True, text=True, check=True).stdout
    for word in linked.split():
        if word.startswith("/"):
            packed[word.lstrip("/")] = Path(word).read_bytes()
    places = ":".join((str(_REPOSITORY), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    for name, module in _PROGRAMS.items():
        command = _COMMAND.format(
            home=sys.base_prefix, path=places, interpreter=interpreter, name=name, module=module
        )
        packed[f"bin/{name}"] = command.encode()
    return packed


def _byte_code(path: Path, directory: Path) -> bytes:
    cached = Path(cache_from_source(str(path)))
    if not cached.is_file():
        cached = directory / "made.pyc"
        compile_file(str(path), cfile=str(cached), doraise=True)
    return cached.read_bytes()


def _inside(path: Path) -> str:
    return str(path).lstrip("/")
