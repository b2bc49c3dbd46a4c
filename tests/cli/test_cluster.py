"""`ravenctl --kubeconfig`: a cluster's status and nodes, from an API server in place of a daemon."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from raven.kube.gateways import GATEWAYS
from raven.kube.objects import timestamp
from tests.cli.daemon import ravenctl, ravenctl_on_terminal
from tests.kube.fake import FakeApi
from tests.kube.fake_server import kubeconfig
from tests.kube.fake_server import served as serving
from tests.kube.sites import LOST, served, site


@asynccontextmanager
async def cluster(directory: Path, *, down: bool = False) -> AsyncIterator[Path]:
    api = served(FakeApi())
    now = timestamp(time.time())
    api.change("leases", "kube-system/raven-gateway", {"spec": {"renewTime": now, "acquireTime": now}})
    if down:
        api.add(GATEWAYS, site("depot", LOST))
    async with serving(api) as url:
        yield kubeconfig(directory / "kubeconfig", url)


async def test_a_cluster_that_is_well(tmp_path: Path) -> None:
    async with cluster(tmp_path) as config:
        ran = await ravenctl("--kubeconfig", config, "status")
        bare = await ravenctl("--kubeconfig", config)
        whole = json.loads((await ravenctl("--kubeconfig", config, "status", "-o", "json")).out)
    assert (ran.code, bare.code) == (0, 0), ran
    assert ran.out.startswith("cluster lab at http://127.0.0.1:")
    assert re.search(r"^c1 +for \d+ s \(\d+ s\) +ready for .* gw-1\.lan:443$", ran.out, re.MULTILINE)
    row = r"^shop +up \(\d+ s\) .*tunnel shop-1 at 192\.0\.2\.7 +1 of 1 ready +10\.1\.0\.0/24$"
    assert re.search(row, ran.out, re.MULTILINE)
    assert [one["name"] for one in whole["sites"]] == ["shop"]


async def test_a_site_that_is_down_is_exit_code_1_and_a_sentence(tmp_path: Path) -> None:
    async with cluster(tmp_path, down=True) as config:
        ran = await ravenctl("--kubeconfig", config, "status")
        as_json = await ravenctl("--kubeconfig", config, "status", "-o", "json")
    assert (ran.code, as_json.code) == (1, 1)
    assert "site depot: no tunnel to node shop-1\n" in ran.out


async def test_its_nodes(tmp_path: Path) -> None:
    async with cluster(tmp_path, down=True) as config:
        ran = await ravenctl("--kubeconfig", config, "nodes")
        whole = json.loads((await ravenctl("--kubeconfig", config, "nodes", "-o", "json")).out)
    assert ran.code == 0
    assert re.search(r"^shop-1 +shop +ready for \d+ d +tunnel +10\.1\.0\.0/24$", ran.out, re.MULTILINE)
    assert re.search(r"^depot-1 +depot +not in the cluster +tunnel", ran.out, re.MULTILINE)
    assert [(one["site"], one["node"]["name"]) for one in whole] == [("depot", "depot-1"), ("shop", "shop-1")]


async def test_100_columns_hold_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as config:
        ran = await ravenctl_on_terminal("--kubeconfig", config, "status", columns=100)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", ran.out)
    assert max(map(len, plain.splitlines())) <= 100


async def test_what_it_cannot_be(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    away = await ravenctl("--kubeconfig", config, "status")
    assert (away.code, "is out of reach" in away.err) == (2, True), away
    nowhere = await ravenctl("--kubeconfig", tmp_path / "none", "nodes")
    assert (nowhere.code, str(tmp_path / "none") in nowhere.err) == (2, True), nowhere
    others: list[list[str | Path]] = [["top"], ["--socket", config, "status"]]
    for words in others:
        refused = await ravenctl("--kubeconfig", config, *words)
        assert (refused.code, "--kubeconfig goes with status and nodes" in refused.err) == (2, True), refused
