"""`raven-agent join` by the API server: a certificate request instead of a gateway's join token.

The API server says which cluster this is, and Kubernetes vouches for the node; a gateway has to prove itself
by the CA that was told before anything is asked for. Loads a client for Kubernetes, so it is imported by
nobody who does not join this way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import trio

from agent import standing as standings
from agent.join import Joined, Random, check_node, make_keys
from agent.standing import Standing
from raven.config import Address, parse_dial
from raven.errors import ConfigError, PeerError, RefusedError
from raven.kube import cluster_info, discovery, requesting
from raven.kube.access import Access
from raven.kube.client import Client
from raven.kube.cluster_info import ClusterInfo
from raven.kube.errors import KubeError
from raven.kube.resources import CONFIG_MAPS
from raven.kube.signing import NODE_MAX
from raven.net.joining import Expected, Greeting, check_own_untrusted, meet
from raven.net.proxy import DIRECT, Ways
from raven.pki.certificate import pin_of, read_ca_untrusted
from raven.pki.csr import load_key, make_csr
from raven.pki.identity import Role
from raven.registry.agent_state import AgentFile, JoinDraft
from raven.wg.primitives import DhPrivateKey

MEET_MAX = 60.0  # seconds for one gateway to answer, of all that there are
_OPEN = ("pending", "unsigned")  # endings after which the same request may still be answered


async def find_standing(
    *, kubeconfig: Path | None, api_server: str, api_ca: str, token: str, connect: Callable[[Access], Client]
) -> Standing:
    """What we show, from the options; with a hash the API server's CA is found first."""
    if kubeconfig is not None:
        return standings.by_kubeconfig(kubeconfig)
    standings.check_bootstrap_token(token)
    server = api_server if "://" in api_server else f"https://{api_server}"
    if not server.startswith("https://"):
        raise ConfigError(f"--api-server {api_server}: expected HOST:PORT or https://HOST:PORT")
    server = server.rstrip("/")
    if not api_ca.startswith(discovery.PREFIX):
        return standings.by_bootstrap_token(server, standings.read_api_ca(Path(api_ca)), token)
    try:
        pin = discovery.parse_pin(api_ca)
    except ValueError as error:
        raise ConfigError(f"--api-ca {api_ca}: {error}") from error
    return standings.by_bootstrap_token(server, await discovery.find_ca(server, pin, connect=connect), token)


async def join(
    directory: Path,
    *,
    node: str,
    kubeconfig: Path | None = None,
    api_server: str = "",
    api_ca: str = "",
    token: str = "",
    gateway: Address | None = None,
    force: bool = False,
    ways: Ways = DIRECT,
    say: Callable[[str], None],
    wait: float = requesting.WAIT,
    connect: Callable[[Access], Client] = Client,
    now: Callable[[], float] = time.time,
    random: Random = os.urandom,
) -> Joined:
    """Joins and writes the identity into `directory`, as an ordinary join does.

    `node` is "" for that of the kubelet, or else this host's. `gateway` is dialled before those that the
    cluster tells of. Run again after a crash it goes on with the request that is there.
    """
    try:
        standing = await find_standing(
            kubeconfig=kubeconfig, api_server=api_server, api_ca=api_ca, token=token, connect=connect
        )
    except KubeError as error:
        access = Access(server=api_server, namespace="")
        raise standings.explained(error, "info", Standing(access, "", api_ca)) from error
    node = node or standing.node or os.uname().nodename.lower()
    check_node(node)
    if len(node) > NODE_MAX:
        raise ConfigError(
            f"--node {node}: a certificate request has {NODE_MAX} characters for it; a join token has more"
        )
    draft = JoinDraft(directory, force=force, make_keys=lambda: make_keys(random), now=now())
    client = connect(standing.access)
    try:
        info = await _read_info(client, standing)
        addresses = _addresses(info, gateway)
        ca = read_ca_untrusted(info.ca_pem)
        greeting = await _meet_one(addresses, info, ways, now)
        key = load_key(draft.key_pem)
        pem = await _asked(
            client, standing, draft, node=node, csr_pem=make_csr(key, node), say=say, wait=wait
        )
        try:
            leaf = check_own_untrusted(
                pem, ca, role=Role.NODE, cluster=info.cluster, name=node, key=key, now=greeting.moment
            )
        except PeerError:
            draft.discard()  # the same request would bring the same certificate
            raise
        state = draft.finish(
            certificate_pem=leaf.pem,
            ca_pem=info.ca_pem,
            agent=AgentFile(
                node=node,
                cluster=info.cluster,
                gateways=[str(one) for one in addresses],
                wg_public_key=DhPrivateKey(draft.wg_private_key).public.to_base64(),
                time_floor=leaf.not_before,
            ),
        )
        return Joined(state, greeting.clock_skew)
    except BaseException:
        draft.close()
        raise
    finally:
        with trio.move_on_after(1, shield=True):
            await client.aclose()


async def _read_info(client: Client, standing: Standing) -> ClusterInfo:
    try:
        config = await client.get(CONFIG_MAPS, cluster_info.NAME, namespace=cluster_info.NAMESPACE)
    except KubeError as error:
        raise standings.explained(error, "info", standing) from error
    return cluster_info.read_untrusted(config)


def _addresses(info: ClusterInfo, given: Address | None) -> list[Address]:
    try:
        told = [parse_dial(address) for _, address in info.gateways]
    except ValueError as error:
        where = f"ConfigMap {cluster_info.NAMESPACE}/{cluster_info.NAME}"
        raise PeerError("bad-cluster-info", f"{where}: gateways: {error}") from error
    return list(dict.fromkeys([given, *told] if given is not None else told))


async def _meet_one(
    addresses: list[Address], info: ClusterInfo, ways: Ways, now: Callable[[], float]
) -> Greeting:
    """The first gateway that answers and shows the CA we were told of. Nothing is asked for before."""
    expected = Expected(
        pin_of(read_ca_untrusted(info.ca_pem)),
        f"{cluster_info.NAME} tells of",
        "it is a gateway of another cluster",
        "Nothing was asked of it",
    )
    failed: list[str] = []
    with trio.move_on_after(MEET_MAX):
        for address in addresses:
            try:
                met = await meet(address, shown=str(address), ways=ways, expected=expected, now=now)
            except (PeerError, RefusedError) as error:
                text = str(error)
                failed.append(text if str(address) in text else f"{address}: {text}")
                continue
            if met.cluster != info.cluster:
                failed.append(f"{address} is of cluster {met.cluster}, expected {info.cluster}")
                continue
            return met
    raise PeerError(
        "unreachable",
        f"the API server answers, and none of the cluster's gateways does from here: {'; '.join(failed)}."
        f" Nothing was asked for yet; try: ravenctl netcheck {addresses[0]}",
    )


async def _asked(
    client: Client,
    standing: Standing,
    draft: JoinDraft,
    *,
    node: str,
    csr_pem: str,
    say: Callable[[str], None],
    wait: float,
) -> str:
    try:
        return await requesting.request_certificate(
            client, node=node, csr_pem=csr_pem, asker=standing.asker, say=say, wait=wait
        )
    except KubeError as error:
        raise standings.explained(error, "request", standing) from error
    except RefusedError as error:
        draft.discard()  # a request with other keys has another name
        raise standings.denied(error, standing, node) from error
    except PeerError as error:
        if error.reason in _OPEN:
            raise standings.waited_in_vain(error, standing) from error
        draft.discard()
        raise
