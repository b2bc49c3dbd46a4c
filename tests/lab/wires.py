"""Cables, addresses and NAT of the lab, by iproute2 and nftables.

Both sites use the same private addresses, as shops do that bought the same router: nothing but a tunnel that
they open themselves can tell them apart.

    cloud-pod ── cloud ── internet ─┬─ nat-a ── site-a ── pod-a
    10.42.0.10   198.51.100.10      │           192.168.1.10   10.42.1.10
    fd42::10                        └─ nat-b ── site-b ── pod-b
                                                192.168.1.10   10.42.2.10, fd42:0:0:2::10
"""

import subprocess
from collections.abc import Iterable

from tests.lab.errors import LabError
from tests.lab.machine import Machine

CLOUD = "198.51.100.10"  # RFC 5737, TEST-NET-2: the one address everybody can dial
CLOUD_ROUTER = "198.51.100.1"
SITE = "192.168.1.10"  # the same at every site
SITE_MOVED = "192.168.1.77"  # another address that a site's router may give
SITE_ROUTER = "192.168.1.1"


def nat_address(number: int) -> str:
    """Public address of the router of site `number` (from 1); RFC 5737, TEST-NET-3 in /29s."""
    return f"203.0.113.{8 * number + 2}"


def pod_address(number: int) -> str:
    """IPv4 address of the pod of site `number`; 0 is the cloud."""
    return f"10.42.{number}.10"


def pod_address6(number: int) -> str:
    return f"fd42:0:0:{number:x}::10"


POD_RANGES = ("10.42.0.0/16", "fd42::/48")  # of all sites and the cloud


def pod_cidrs(number: int) -> list[str]:
    return [f"10.42.{number}.0/24", f"fd42:0:0:{number:x}::/64"]


def ip(lines: Iterable[str], *, namespace: str = "") -> None:
    """Runs `lines` as one batch of `ip`, inside `namespace` where given."""
    command = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")


def plug(a: Machine, a_end: str, b: Machine, b_end: str) -> None:
    """A cable between two machines."""
    ip(
        [
            f"link add {a_end} netns {a.namespace} type veth peer name {b_end} netns {b.namespace}",
        ]
    )
    for machine, end in ((a, a_end), (b, b_end)):
        ip(["link set lo up", f"link set {end} up"], namespace=machine.namespace)


def wire_cloud(cloud: Machine, internet: Machine) -> None:
    plug(cloud, "eth0", internet, "cloud")
    ip([f"addr add {CLOUD_ROUTER}/24 dev cloud"], namespace=internet.namespace)
    ip([f"addr add {CLOUD}/24 dev eth0", f"route add default via {CLOUD_ROUTER}"], namespace=cloud.namespace)
    internet.set_sysctl(ipv4__ip_forward=1)


def wire_site(internet: Machine, nat: Machine, site: Machine, *, letter: str, number: int) -> None:
    """A site behind a router that masquerades and lets nothing in that was not asked for."""
    isp = f"203.0.113.{8 * number + 1}"
    plug(internet, f"to-{letter}", nat, "wan")
    plug(nat, "lan", site, "eth0")
    ip([f"addr add {isp}/29 dev to-{letter}"], namespace=internet.namespace)
    ip(
        [
            f"addr add {nat_address(number)}/29 dev wan",
            f"addr add {SITE_ROUTER}/24 dev lan",
            f"route add default via {isp}",
        ],
        namespace=nat.namespace,
    )
    ip([f"addr add {SITE}/24 dev eth0", f"route add default via {SITE_ROUTER}"], namespace=site.namespace)
    nat.set_sysctl(ipv4__ip_forward=1)
    nat.run("nft", "-f", "-", text=_NAT_RULES)


# fully-random: the router picks new port numbers, so nobody may rely on seeing their own.
_NAT_RULES = """
table ip lab {
    chain to_wan {
        type nat hook postrouting priority srcnat;
        oifname "wan" masquerade fully-random
    }
    chain through {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "lan" accept
    }
    chain to_router {
        type filter hook input priority filter; policy accept;
        ct state established,related accept
        iifname "wan" drop
    }
}
"""


def move_site(site: Machine, old: str, new: str) -> None:
    """The site's machine has the address `new` from now on, as when its router gives it another lease."""
    site.set_sysctl(ipv4__conf__all__promote_secondaries=1)
    ip(
        [
            f"addr add {new}/24 dev eth0",
            f"addr del {old}/24 dev eth0",
            f"route replace default via {SITE_ROUTER}",
        ],
        namespace=site.namespace,
    )


def wire_pod(host: Machine, pod: Machine, *, number: int) -> None:
    """A pod behind its host, which forwards as any Kubernetes node does."""
    plug(host, "pods", pod, "eth0")
    gateway4, gateway6 = f"10.42.{number}.1", f"fd42:0:0:{number:x}::1"
    # nodad: a lab that waits two seconds for each address to be found unique is no fun.
    ip(
        [f"addr add {gateway4}/24 dev pods", f"addr add {gateway6}/64 dev pods nodad"],
        namespace=host.namespace,
    )
    ip(
        [
            f"addr add {pod_address(number)}/24 dev eth0",
            f"addr add {pod_address6(number)}/64 dev eth0 nodad",
            f"route add default via {gateway4}",
            f"route add default via {gateway6}",
        ],
        namespace=pod.namespace,
    )
    host.set_sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)


def set_uplink(internet: Machine, letter: str, *, up: bool) -> None:
    """Carrier on or off between the internet and a site's router, in the middle of the network.

    The site keeps its addresses and routes and is told nothing, as when a digger finds a cable.
    """
    ip([f"link set to-{letter} {'up' if up else 'down'}"], namespace=internet.namespace)
