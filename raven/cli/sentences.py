"""What a line of the daemons' logs reads like, for `ravenctl events`.

Each event that reaches `raven.log.recent` has a sentence here. Where some details come with only some of its
lines, an event has several, the fullest first. `tests/cli/test_sentences.py` holds them against every call
of a logger in gateway, agent and raven.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Final

_NODES: Final[Mapping[str, str | tuple[str, ...]]] = {
    "node joined": "node {node} joined, from {address}",
    "gateway joined": "gateway {gateway} joined, from {address}",
    "node connected": "node {node} connected from {address}, raven {software}",
    "node resumed": "node {node} came back to its tunnel from {address}, after {gap_s} s",
    "node disconnected": "node {node} is gone: {why}",
    "cut off": ("node {node} was cut off: {why}", "node {node} was cut off: {reason}"),
    "turned away": "a connection from {address} was turned away: {why}",
    "not renewed": "the certificate of node {node} was not renewed: {why}",
    "connection ended by a fault of the gateway": (
        "a connection from {address} ended by a fault of this gateway; its log has the traceback"
    ),
    "no node has joined yet": "no node has joined yet: {next}",
}
_UPLINKS: Final[Mapping[str, str | tuple[str, ...]]] = {
    "connected": "connected to gateway {name} at {gateway}, raven {software}",
    "disconnected": "the tunnel to {gateway} ended: {why}",
    "no tunnel": "no tunnel: {problem}",
    "the tunnel goes on over another connection": "the tunnel to {gateway} goes on over another connection",
    "tunnel ended by a fault of the agent": (
        "the tunnel to {gateway} ended by a fault of this agent; its log has the traceback"
    ),
    "changes of this machine's addresses are not noticed": (
        "changes of this machine's addresses are not noticed, a tunnel notices them later: {why}"
    ),
    "gateway to dial": (
        "gateway {name} at {gateway} is dialled from now on",
        "the gateway at {gateway} is dialled from now on",
    ),
    "gateway left the list": "the gateway at {gateway} is not on the list any more: its tunnel ends",
    "a gateway of the list cannot be dialled": "gateway {name} of the list cannot be dialled: {why}",
    "no gateway of the list is reached: the addresses of the join count as well": (
        "no gateway of the list was reached for {seconds} s: the addresses of the join count as well"
    ),
    "the kept list of gateways cannot be used": "the list of gateways kept in {file} cannot be used: {why}",
    "the list of gateways is not kept": "the list of gateways is not kept for the next start: {why}",
}
_CERTIFICATES: Final[Mapping[str, str | tuple[str, ...]]] = {
    "certificate renewed": (
        "the certificate of node {node} was renewed, serial {serial}",
        "this node's certificate was renewed, the next time in {next_days} days",
    ),
    "certificate not renewed": "this node's certificate was not renewed: {why}",
    "took the gateway's word on its CA": "took the gateway's word on its CA: {knows} known now",
    "took the followed gateway's word on its CA": "took the followed gateway's word on its CA",
    "renewed the gateway's certificate": "this gateway's certificate was renewed",
    "renewed this gateway's certificate": "this gateway's certificate was renewed by the gateway it follows",
    "the gateway's certificate was not renewed": "this gateway's certificate was not renewed: {why}",
    "this gateway's certificate was not renewed": (
        "this gateway's certificate was not renewed by the gateway it follows: {why}"
    ),
    "the CA has changed": "this gateway has another CA now, {pin}",
    "the CA was not changed": "the CA was not changed: {why}",
    "reloaded": "certificates were read again: {files}",
    "kept the certificates from before": "certificates were not read again, those before count: {why}",
}
_PACKETS: Final[Mapping[str, str | tuple[str, ...]]] = {
    "packet lane joined": "node {node} takes part in the packet lane",
    "packet lane left": "node {node} takes no part in the packet lane any more",
    "packet lane refused": "node {node} takes no part in the packet lane: {why}",
    "packets stopped": "packets to node {node} stopped: {why}",
    "packets pass": "packets to node {node} pass",
    "packets do not pass": "packets do not pass: {why}",
    "packets may pass": "packets may pass through {interface}",
    "packets pass in part": "packets pass in part: {why}",
    "packets go through gateway": (
        "packets go through gateway {gateway} now, through {before} before",
        "packets go through gateway {gateway}",
    ),
    "way of the packets": ("{problem}", "packets go by UDP, to {endpoint}"),
    "the gateway does not carry our packets": "the gateway does not carry this node's packets: {why}",
    "new keys asked for": "the device was told to make new keys with peer {peer}",
    "no packet-lane probes": "the packet lane cannot be probed: {why}",
    "the packet lane has a fault": "the packet lane has a fault and begins anew; the log has the traceback",
    "routes may be left": "routes of {interface} may be left behind: {why}",
    "device started": "started the device {interface}, process {process}",
    "device made": "made the device {interface}, in the kernel",
    "device taken over": "took the device {interface} over, from the run before",
    "device adopted": "took the device {interface}, which was there and unused",
    "no marker for the device": "the next run may not know its device again, {file} was not written: {why}",
    "raven-wg": "raven-wg says: {says}",
    "the kept network map cannot be used": "the network map kept in {file} cannot be used: {why}",
    "the network map is not kept": "the network map is not kept for the next start: {why}",
    "a node of the network map cannot be used": "node {node} of the network map gets no packets: {why}",
}
_DAEMONS: Final[Mapping[str, str | tuple[str, ...]]] = {
    "ready": (
        "the gateway is ready, raven {version}; agents dial it at {advertised}",
        "the agent of node {node} is ready, raven {version}",
    ),
    "leaving": "began to leave: everybody is served for {seconds} s more",
    "draining": (
        "began to drain {tunnels} tunnels, for at most {seconds} s",
        "began to drain, for at most {seconds} s",
    ),
    "stopped": "stopped",
    "metrics": "metrics are served at {address}",
    "policy taken": "the policy in {file} is in force, with {permits} permits",
    "policy not taken": "the policy was not taken, the one before is in force: {why}",
    "allow list taken": "the allow list was taken: {rules} rules; {cut} streams were cut",
    "configuration not taken": "the configuration was not taken, the allow list before is in force: {why}",
    "audit not written": "the audit is not written, its lines are in the log only: {why}",
    "audit written again": "the audit is written again; {lines} lines are in the log only",
    "audit not read": "the head of the audit was not read: {why}",
    "a lane ended by a fault of the agent": (
        "{lane} ended by a fault of this agent; its log has the traceback"
    ),
    "a lane ended by a fault of the gateway": (
        "{lane} ended by a fault of this gateway; its log has the traceback"
    ),
    "a stream ended by a fault of the agent": (
        "a stream ended by a fault of this agent; its log has the traceback"
    ),
    "a request ended by a fault of the gateway": (
        "a request ended by a fault of this gateway; its log has the traceback"
    ),
    "a connection ended by a fault of the gateway": (
        "a connection by name ended by a fault of this gateway; its log has the traceback"
    ),
    "a page ended by a fault of this program": (
        "a page was not served by a fault of this program; its log has the traceback"
    ),
}
_REGISTRIES: Final[Mapping[str, str | tuple[str, ...]]] = {
    "registry": "the registry failed: {why}",
    "gateway follows": "gateway {gateway} follows this one; agents dial it at {address}",
    "gateway does not follow any more": "gateway {gateway} does not follow this one any more: {why}",
    "following": "follows the gateway at {gateway}",
    "the followed gateway is away": "the followed gateway is away: {problem}",
    "following ended by a fault of this gateway": (
        "following ended by a fault of this gateway; its log has the traceback"
    ),
    "imported": "brought {nodes} nodes and {credentials} credentials into the cluster's registry",
    "not imported yet": "what this gateway knew is not in the cluster's registry yet: {why}",
    "the registry was not asked": "the cluster's registry could not be asked: {why}",
}
_KUBERNETES: Final[Mapping[str, str | tuple[str, ...]]] = {
    "waiting": "waits for the Kubernetes cluster: {why}",
    "the API server serves something else": (
        "the API server serves other kinds of objects than before: the cluster is read anew"
    ),
    "the API server answers again": "the API server answers again, for {watch}",
    "watch": "what happens to the cluster's {kind} is not heard: {why}",
    "left out": "an object of the cluster was left out: {why}",
    "not kept for a restart": "what the cluster says is not kept for a restart: {why}",
    "leading": "leads, by the Lease {lease}",
    "no longer leading": (
        "leads no longer, by the Lease {lease}: {why}",
        "leads no longer, by the Lease {lease}",
    ),
    "lease": "the Lease was not taken or renewed: {why}",
    "reconcile": "{key} is not in the cluster as it should be: {why}",
    "reconciled after failures": "{key} is in the cluster as it should be, after failures",
    "a reconcile ended by a fault of the gateway": (
        "{key} is not in the cluster as it should be, by a fault of this gateway; its log has the traceback"
    ),
    "event not recorded": "an event about {about} was not recorded in the cluster: {why}",
    "certificate request": "certificate request {name}: {said}",
    "cluster info": "the cluster's own record of this registry: {said}",
}
SENTENCES: Final[Mapping[str, tuple[str, ...]]] = {
    event: (said,) if isinstance(said, str) else said
    for area in (_NODES, _UPLINKS, _CERTIFICATES, _PACKETS, _DAEMONS, _REGISTRIES, _KUBERNETES)
    for event, said in area.items()
}


def sentence_for(event: str, details: Mapping[str, str]) -> str | None:
    """The first sentence of the event that has all its details; None where it has none."""
    for template in SENTENCES.get(event, ()):
        if all(details.get(field) for field in fields_of(template)):
            return template.format_map(details)
    return None


def fields_of(template: str) -> Sequence[str]:
    return [field for _, field, _, _ in string.Formatter().parse(template) if field]
