"""A GiB down by curl and one up by scp at once, through an uplink that is cut at random: both arrive whole.

The digests are those of the files at both ends. What cuts is what happens to uplinks: a cable without a word
for a while, a NAT that forgets everything, a reset.
"""

import contextlib
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.demo.scene import scp_command
from tests.lab import programs
from tests.lab.errors import LabError
from tests.lab.raven import AGENTS, Gateway
from tests.lab.world import Site, World

SIZE = 1 << 30  # bytes of each copy
COPY_MAX = 300.0  # seconds for one; ten where nothing else runs
_PIECE = 1 << 24
_RESETS = """
table ip trouble {{
    chain through {{
        type filter hook forward priority filter;
        tcp dport {port} reject with tcp reset
        tcp sport {port} reject with tcp reset
    }}
}}
"""


class Copied(NamedTuple):
    """How it went."""

    seconds: float
    cuts: Counter[str]  # by kind
    problems: list[str]  # a sentence each

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.cuts.items()))
        return f"1 GiB down and 1 GiB up in {self.seconds:.0f} s, {self.cuts.total()} cuts ({kinds})"


def copies(world: World, gateway: Gateway, site: Site, *, seed: int) -> Copied:
    """Both at once; LabError when a program of the lab does not start."""
    root = world.directory / "copies"
    root.mkdir()
    digest = _write(root / "big", random.Random(seed))
    programs.nginx(site.machine, root)
    server = programs.sshd(site.machine)
    down, up = root / "down", root / "up"
    began = time.monotonic()

    def fetch() -> str:
        answer = gateway.curl(f"http://{site.name}:8080/big", "-f", "-o", str(down), seconds=COPY_MAX)
        return f"curl ended with {answer.code}: {answer.err}" if answer.code else ""

    def send() -> str:
        command = scp_command(server, str(root / "big"), f"{site.name}:{up}")
        done = world.cloud.run(*command, seconds=COPY_MAX, check=False)
        return f"scp ended with {done.code}: {done.err}" if done.code else ""

    with ThreadPoolExecutor() as pool, _cutting(world, site, seed=seed) as cuts:
        problems = [problem for job in (pool.submit(fetch), pool.submit(send)) if (problem := job.result())]
    took = time.monotonic() - began
    for name, arrived in (("curl", down), ("scp", up)):
        if not problems and _digest(arrived) != digest:
            problems.append(f"what {name} copied is not what was sent")
    if len(cuts) < 2:
        problems.append(f"they took {took:.0f} s, too short for {len(cuts)} cuts to mean anything")
    for path in (root / "big", down, up):
        path.unlink(missing_ok=True)
    return Copied(took, Counter(cuts), [f"copies: {problem}" for problem in problems])


@contextlib.contextmanager
def _cutting(world: World, site: Site, *, seed: int) -> Iterator[list[str]]:
    """Cuts the uplink of `site` at random until the block ends; the cuts so far, by name."""
    chance = random.Random(seed)
    done: list[str] = []
    stop = threading.Event()

    def unplugged() -> None:
        world.set_uplink(site.letter, up=False)
        time.sleep(chance.uniform(0.2, 3.0))
        world.set_uplink(site.letter, up=True)

    def forgotten() -> None:
        site.nat.run("conntrack", "-F")

    def reset() -> None:
        world.internet.run("nft", "-f", "-", text=_RESETS.format(port=AGENTS.rpartition(":")[2]))
        time.sleep(chance.uniform(0.1, 1.0))
        world.internet.run("nft", "delete", "table", "ip", "trouble")

    kinds: list[Callable[[], None]] = [unplugged, forgotten, reset]

    def cut() -> None:
        while not stop.wait(chance.uniform(0.5, 3.0)):
            kind = chance.choice(kinds)
            kind()
            done.append(kind.__name__)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        yield done
    finally:
        stop.set()
        cutter.join()


def _write(path: Path, chance: random.Random) -> str:
    """Random content that no layer can shorten; its digest."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(SIZE // _PIECE):
            piece = chance.randbytes(_PIECE)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}") from error
