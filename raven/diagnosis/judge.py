"""Evidence in, findings out: what each thing that was seen means, and what to try when it is broken.

Pure, so each sentence can be tested without a network. `certificate` and `clock` get the moment to judge by.
"""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from raven.diagnosis.evidence import TIMED_OUT, Attempt, Contact, Lookup, Proxied, Shown
from raven.diagnosis.finding import Finding
from raven.errors import PeerError
from raven.pki.certificate import Leaf, check_leaf_untrusted, pin_of, read_ca_untrusted
from raven.pki.identity import Role
from raven.pki.renewal import BACKDATE, GRACE, is_renewable_at
from raven.pki.token import pin_text
from raven.spans import age

SKEW_NOTED: Final = 30.0  # seconds; less is a clock that NTP will catch, or a slow handshake

_REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN})


def proxy(proxied: Proxied, gateway: str, *, password_known: bool = True) -> Finding:
    """The HTTP proxy on the way to `gateway`, which this host may not know the password of."""
    if proxied.seconds is not None:
        said = f"the proxy {proxied.proxy} lets CONNECT pass, after {proxied.seconds * 1e3:.1f} ms"
        return Finding(hop="proxy", result="ok", about=gateway, said=said)
    if proxied.reason == "proxy-auth" and not password_known:
        said = f"{proxied.problem}; the agent's own are not known here"
        step = "`--proxy http://USER:PASSWORD@HOST:PORT`, or the same as HTTPS_PROXY, tries them"
        return Finding(hop="proxy", result="unknown", about=gateway, said=said, next=step)
    step = _PROXY_STEPS.get(proxied.reason, "compare the proxy with the settings of other programs here")
    said = proxied.problem
    return Finding(hop="proxy", result="broken", about=gateway, said=said, next=step.format(gateway=gateway))


_PROXY_STEPS: Final = {
    "proxy-lookup": "compare the proxy's name with the settings of other programs here",
    "proxy-connect": "compare the proxy's host and port with the settings of other programs here",
    "proxy-auth": "give raven-agent --proxy http://USER:PASSWORD@HOST:PORT, or the same as HTTPS_PROXY",
    "proxy-forbids": "ask the proxy's owner to allow CONNECT to {gateway}",
    "proxy-target": "compare {gateway} with the join command; the proxy's log says why it does not get there",
}


def name(contact: Contact) -> list[Finding]:
    """DNS: one finding, with what both families gave."""
    if not contact.lookups:
        return []
    found = [address for lookup in contact.lookups for address in lookup.addresses]
    if found:
        said = f"{contact.host} is {', '.join(found)}"
        missing = [lookup for lookup in contact.lookups if lookup.temporary and not lookup.addresses]
        if missing:
            said += f"; the question for IPv{missing[0].family} was not answered"
        return [Finding(hop="name", result="ok", about=contact.name, said=said)]
    return [_no_name(contact.host, contact.name, contact.lookups)]


def _no_name(host: str, about: str, lookups: tuple[Lookup, ...]) -> Finding:
    said = f"{host} cannot be looked up: {'; '.join(dict.fromkeys(lookup.problem for lookup in lookups))}"
    if any(lookup.temporary for lookup in lookups):
        step = "see that the servers in /etc/resolv.conf are right and reachable (UDP and TCP port 53)"
    else:
        step = f"compare the name with the one in the join command; `getent hosts {host}` should find it"
    return Finding(hop="name", result="broken", about=about, said=said, next=step)


def tcp(contact: Contact) -> list[Finding]:
    """One finding for each address; what fails beside an address that works is only noted."""
    findings = []
    for attempt in contact.attempts:
        if attempt.seconds is not None:
            said = f"connected in {attempt.seconds * 1e3:.1f} ms"
            findings.append(Finding(hop="tcp", result="ok", about=attempt.address, said=said))
            continue
        findings.append(
            Finding(
                hop="tcp",
                result="note" if contact.connected else "broken",
                about=attempt.address,
                said=attempt.problem,
                next=_tcp_step(attempt),
            )
        )
    return findings


def _tcp_step(attempt: Attempt) -> str:
    host, _, port = attempt.address.rpartition(":")
    if attempt.errno in _REFUSED:
        return (
            f"nothing accepts connections at port {port}: start raven-gateway there, or compare the port"
            " with its --agents-listen; a firewall that rejects looks the same"
        )
    if attempt.errno in _NO_ROUTE:
        return f"this machine has no way there: `ip route get {host.strip('[]')}` tells what is missing"
    if attempt.errno == TIMED_OUT:
        return f"let TCP out to {host} port {port} in every firewall on the way, if the address is right"
    return "see what the sentence says; `ip route` and the firewall of this machine come first"


def tls(
    contact: Contact, *, ca: x509.Certificate | None, cluster: str = "", now: float | None = None
) -> list[Finding]:
    """TLS and who answered: by the CA that was pinned, or, without one, as far as a stranger can tell.

    `now` is the moment by the gateway's own clock, which decides about its certificate.
    """
    if not contact.reached:
        return []
    shown = contact.shown
    if shown is None:
        return [
            Finding(
                hop="tls",
                result="broken",
                about=contact.name,
                said=contact.tls_problem,
                next=_tls_step(contact),
            )
        ]
    try:
        seen = read_ca_untrusted(shown.ca_pem)
    except PeerError as error:
        return [_foreign(contact, str(error))]
    if ca is not None and pin_of(ca) != pin_of(seen):
        said = f"it shows the CA with pin {pin_text(pin_of(seen))}; this node trusts {pin_text(pin_of(ca))}"
        return [_foreign(contact, said)]
    try:
        leaf = check_leaf_untrusted(
            shown.leaf_der, ca or seen, role=Role.GATEWAY, cluster=cluster or shown.cluster, now=now
        )
    except PeerError as error:
        if error.reason == "certificate-time":
            said = f"the gateway's own clock and certificate disagree: {error}"
            step = "set the gateway's clock, then restart it: it makes itself a new certificate"
            return [Finding(hop="tls", result="broken", about=contact.name, said=said, next=step)]
        return [_foreign(contact, str(error))]
    said = f"{leaf.identity} answered in {shown.seconds * 1e3:.1f} ms, CA pin {pin_text(pin_of(seen))}"
    if ca is None:
        said += "; compare it with the last part of the join token"
    return [Finding(hop="tls", result="ok", about=contact.name, said=said)]


def _tls_step(contact: Contact) -> str:
    if contact.tls_reason == "busy":
        return "the gateway is there and has many to serve: look again then; an agent waits by itself"
    if contact.tls_reason in ("tls-timeout", "timeout"):
        return (
            "something accepts and then says nothing: a firewall that inspects TLS, a load balancer without"
            " a gateway behind it, or a path that drops full-sized packets (see `ravenctl netcheck`)"
        )
    if contact.tls_reason in ("wrong-alpn", "bad-join", "tls"):
        return (
            "something else than a Raven gateway answers: compare the port with --agents-listen; a proxy in"
            " between must pass TLS through and not end it"
        )
    return (
        "a firewall or load balancer in between may have cut it, or the gateway is overloaded: look at the"
        " gateway's log at this moment"
    )


def _foreign(contact: Contact, said: str) -> Finding:
    return Finding(
        hop="tls",
        result="broken",
        about=contact.name,
        said=said,
        next=(
            "this is another gateway, or somebody in between: compare the address; if the gateway was set up"
            " anew on purpose, join it again with `raven-agent join --force`"
        ),
    )


def clock(shown: Shown, about: str) -> Finding:
    """Our clock beside the gateway's, which decides about certificates."""
    ahead = shown.ahead
    if abs(ahead) <= SKEW_NOTED + shown.seconds:
        return Finding(
            hop="clock", result="ok", about=about, said=f"within {max(1, round(abs(ahead)))} s of it"
        )
    said = f"this machine's clock is {age(abs(ahead))} {'behind' if ahead > 0 else 'ahead of'} the gateway's"
    step = "set the clock: `timedatectl set-ntp true`, and see that an NTP server can be reached"
    # The tunnel goes by the gateway's clock, so it does not break on this; joining judges by the later one.
    if ahead < -BACKDATE:
        said += "; joining would take the gateway's certificate for expired if it is far enough"
    return Finding(hop="clock", result="note", about=about, said=said, next=step)


def certificate(leaf: Leaf, *, now: float, about: str, rejoin: str) -> Finding:
    """A certificate of this host at the moment `now`; `rejoin` is the command that makes a new one."""
    until = f"{date(leaf.not_before)} to {date(leaf.not_after)}"
    if now < leaf.not_before:
        said = f"{leaf.identity} counts from {until}, and it is {date(now)}"
        step = "set this machine's clock: `timedatectl set-ntp true`"
        return Finding(hop="certificate", result="broken", about=about, said=said, next=step)
    if now > leaf.not_after:
        said = f"{leaf.identity} expired {age(now - leaf.not_after)} ago ({date(leaf.not_after)})"
        step = rejoin
        if leaf.identity.role is Role.NODE and is_renewable_at(now, leaf.not_before, leaf.not_after):
            last = date(leaf.not_after + GRACE)
            step = (
                f"leave raven-agent running with the gateway in reach, it renews until {last}; else {rejoin}"
            )
        return Finding(hop="certificate", result="broken", about=about, said=said, next=step)
    if now > leaf.renew_at:
        said = f"{leaf.identity} is due for renewal since {age(now - leaf.renew_at)}, it counts until "
        said += f"{date(leaf.not_after)}"
        step = rejoin
        if leaf.identity.role is Role.NODE:
            step = "a running agent renews it by itself while a gateway is in reach; else its status says why"
        return Finding(hop="certificate", result="note", about=about, said=said, next=step)
    said = f"{leaf.identity}, good for another {age(leaf.not_after - now)}"
    return Finding(hop="certificate", result="ok", about=about, said=said)


def count(number: int, thing: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
