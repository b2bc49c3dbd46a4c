"""Where a stream shall end: on the node itself the allow list and the service, from a gateway a real request.

A request from a gateway is a CONNECT through its own O&M entry, closed as soon as it is answered; the audit
shows it like any other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

import trio

from raven.config import Address
from raven.diagnosis.contact import is_numeric, look_up, try_all
from raven.diagnosis.finding import Finding, Hop, Result
from raven.errors import RefusedError
from raven.oam.asker import IPAddress
from raven.oam.policy import Allow
from raven.oam.target import Target, find_route

REQUEST_MAX: Final = 25.0  # seconds; the gateway gives an agent 15 to connect
_HEAD_MAX: Final = 64 << 10  # bytes


def parse(text: str, own_node: str = "") -> Target:
    """The target `text` spells, as in a CONNECT; RefusedError says what is wrong with it.

    On the node `own_node` a host needs no `.via.`: 192.168.1.5:502 is behind this very node.
    """
    route = find_route("CONNECT", text, [], lambda name: name in (own_node, "node"))
    assert route is not None  # CONNECT has no pages
    found = route.target
    if not own_node or found.node == own_node:
        return found
    if found.host:
        raise RefusedError("bad-target", f"this is node {own_node}, not {found.node}")
    return Target(own_node, "" if found.node == "node" else found.node, found.port)


async def on_node(target: Target, allow: Sequence[str] | None, *, own: Sequence[str] = ()) -> list[Finding]:
    """What the agent would say and meet; `allow` None when there is no agent to tell its list.

    `own` are addresses of this machine at which a service may listen that is not on loopback.
    """
    shown = str(Address(target.host or "node", target.port))
    hosts = [target.host] if target.host else ["127.0.0.1", "::1"]
    if target.host and not is_numeric(target.host):
        lookups = await look_up(target.host)
        hosts = [address for lookup in lookups for address in lookup.addresses]
        if not hosts:
            said = f"{target.host} cannot be looked up here: {lookups[0].problem}"
            step = f"use its address, or make `getent hosts {target.host}` find it on this node"
            return [Finding(hop="target", result="broken", about=shown, said=said, next=step)]
    found = await _connected(target, shown, hosts)
    if found.result == "broken" and not target.host:
        elsewhere = await _connected(target, shown, list(own))
        if elsewhere.result == "ok":
            # Whether the agent was told that address, its snapshot does not tell.
            said = f"{found.said}; {elsewhere.said}"
            step = f"the agent tries that address if --node-address {own[0]} names it"
            found = Finding(hop="target", result="unknown", about=shown, said=said, next=step)
    return [judged(target, shown, hosts, allow, own), found]


def judged(
    target: Target, shown: str, hosts: list[str], allow: Sequence[str] | None, own: Sequence[str]
) -> Finding:
    """What the agent with the list `allow` would say to a stream for `target`, which leads to `hosts`."""
    if allow is None:
        said = "the agent does not run, so its list is not known"
        return Finding(hop="allow", result="unknown", about=shown, said=said)
    rules = Allow.parse(allow)
    addresses = [ipaddress.ip_address(host.partition("%")[0]) for host in hosts] if target.host else []
    try:
        rules.judge_host(target.host, target.port)
        rules.judge_addresses(target.host, target.port, addresses)
    except RefusedError as error:
        if target.host in own and (who := _who(rules, "", target.port, [])) is not None:
            said = f"the rules for node permit it{who} if the agent runs with --node-address {target.host}"
            return Finding(hop="allow", result="unknown", about=shown, said=said)
        if who := _who(rules, target.host, target.port, addresses):
            # Nobody in particular asks here, and that others are refused may be what the owner wants.
            said = f"the agent's allow list permits it{who}"
            step = "ask as one of them: docs/oam.md tells how each proves its name to the gateway"
            return Finding(hop="allow", result="note", about=shown, said=said, next=step)
        step = (
            f"add --allow {shown} to the agent's options (or to allow in agent.toml) and restart raven-agent"
        )
        return Finding(hop="allow", result="broken", about=shown, said=str(error), next=step)
    return Finding(hop="allow", result="ok", about=shown, said="the agent's allow list permits it")


def _who(rules: Allow, host: str, port: int, addresses: Sequence[IPAddress]) -> str | None:
    """To whom `rules` permit that: "" for everybody, None for nobody."""
    if rules.permits(host, port, addresses):
        return ""
    words = rules.permitted_to(host, port, addresses)
    return f" to {', '.join(map(str, words))} only" if words else None


async def _connected(target: Target, shown: str, hosts: list[str]) -> Finding:
    streams: dict[str, trio.SocketStream] = {}
    attempts = await try_all(hosts, target.port, streams)
    for stream in streams.values():
        await trio.aclose_forcefully(stream)
    good = [attempt for attempt in attempts if attempt.seconds is not None]
    if good:
        said = f"{good[0].address} accepts connections, after {(good[0].seconds or 0.0) * 1e3:.1f} ms"
        return Finding(hop="target", result="ok", about=shown, said=said)
    where = "on this node" if not target.host else f"at {target.host}"
    said = "; ".join(f"{attempt.address}: {attempt.problem}" for attempt in attempts)
    step = f"start the service {where}; `ss -ltn` there should show port {target.port}"
    return Finding(hop="target", result="broken", about=shown, said=said, next=step)


async def through(entry: Address, target: Target) -> Finding:
    """A CONNECT to `target` through the O&M entry of this gateway."""
    authority = f"{target.host}.via.{target.node}:{target.port}" if target.host else str(target)
    began = trio.current_time()
    try:
        with trio.fail_after(REQUEST_MAX):
            stream = await trio.open_tcp_stream(entry.host or "127.0.0.1", entry.port)
            async with stream:
                head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: ravenctl\r\n\r\n"
                await stream.send_all(head.encode())
                status, reason, sentence = await _answer(stream)
    except trio.TooSlowError:
        said, reason = f"no answer from {entry} within {REQUEST_MAX:.0f} s", "dial-timeout"
    except (OSError, trio.BrokenResourceError) as error:
        said, reason = f"{entry}: {error}", "tunnel-lost"
    else:
        if status == 200:
            took = (trio.current_time() - began) * 1e3
            said = f"a CONNECT through {entry} was answered by the target's host in {took:.1f} ms"
            return Finding(hop="target", result="ok", about=authority, said=said)
        said = f"{status} {reason}: {sentence}"
    return refused(reason, authority, said)


def refused(reason: str, about: str, said: str) -> Finding:
    """What a request through the gateway came to that ended with that reason of `raven.oam.refusal`."""
    hop: Hop = "allow" if reason == "not-allowed" else "node" if reason in _OF_NODE else "target"
    result: Result = "broken"
    if reason in _OF_ASKER:
        result, said = "unknown", f"whoever asks here is refused before the target is asked: {said}"
    step = STEPS.get(reason, "docs/oam.md says what this reason means")
    return Finding(hop=hop, result=result, about=about, said=said, next=step)


async def _answer(stream: trio.SocketStream) -> tuple[int, str, str]:
    """Status, Raven-Error and sentence of the proxy's answer; (0, "", "") when it is none."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _HEAD_MAX:
        more = await stream.receive_some()
        if not more:
            break
        data += more
    head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    words = first.split(" ")
    if len(words) < 2 or not words[1].isdigit():
        return 0, "", "not an HTTP answer"
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "0")
    while words[1] != "200" and length.isdigit() and len(body.encode()) < int(length) <= _HEAD_MAX:
        more = await stream.receive_some()
        if not more:
            break
        body += more.decode("utf-8", "replace")
    return int(words[1]), headers.get("raven-error", ""), body.strip()


_OF_NODE: Final = frozenset(
    {
        "unknown-node",
        "ambiguous-node",
        "offline-node",
        "reconnecting",
        "tunnel-lost",
        "draining",
        "registry",
        "busy",
    }
)
_OF_ASKER: Final = frozenset({"not-permitted", "no-identity", "too-many"})  # another one may get through
STEPS: Final = {
    "not-permitted": "ask as one who has a permit, or give from:127.0.0.0/8 one in the gateway's policy",
    "no-identity": "ask with a token (`raven-gateway access token NAME`) or certificate that has a permit",
    "too-many": "ask again when some have ended (`ravenctl top` shows them), or raise --oam-each-max",
    "unknown-node": "compare the name with `ravenctl nodes`; a host behind a node is HOST.via.NODE:PORT",
    "ambiguous-node": "ask by the node's name, as `ravenctl nodes` has it",
    "reconnecting": "ask again in a moment; if it stays away, `ravenctl doctor` on that node shows the hop",
    "offline-node": "on that node: is it powered, does it have a network? then `ravenctl doctor` there",
    "not-allowed": "the node's owner adds that rule to --allow (agent.toml: allow), and restarts its agent",
    "unreachable": "start the service there; on the node, `ravenctl doctor --target PORT` shows its side",
    "dial-timeout": "is the target up, and does a firewall between the node and it drop this?",
    "tunnel-lost": "ask again in a moment; `ravenctl status` shows whether the gateway and the tunnel are up",
    "draining": "this gateway is shutting down: ask another, or start it again",
    "registry": "the gateway's log says what its registry lacks, mostly disk space",
    "agent-error": "the agent's log on that node has the line, with the id of the request",
    "busy": "close streams to that node; its LimitNOFILE bounds them",
}
