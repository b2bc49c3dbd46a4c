"""The switches, on a directory that stands for /proc/sys/net of other kernels than the one at hand."""

from pathlib import Path

import pytest

from raven.net.sysctls import InterfaceSysctls


def tree(root: Path, **values: str) -> Path:
    for name, value in values.items():
        path = root.joinpath(*name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


@pytest.fixture
def old_kernel(tmp_path: Path) -> Path:
    return tree(
        tmp_path,
        ipv4__conf__wg0__forwarding="0",
        ipv4__conf__cni0__forwarding="0",
        ipv6__conf__wg0__addr_gen_mode="0",
        ipv6__conf__wg0__disable_ipv6="0",
        ipv6__conf__all__disable_ipv6="0",
        ipv6__conf__all__forwarding="0",
    )


def test_a_kernel_without_force_forwarding_needs_the_switch_of_the_host(old_kernel: Path) -> None:
    switches = InterfaceSysctls("wg0", old_kernel)
    switches.prepare(ipv6_pods=True)
    assert switches.forwarding_problems(ipv4=["cni0"], ipv6=["cni0"], ipv6_pods=True) == [
        "pods behind cni0 cannot send to other sites over IPv4: set net.ipv4.ip_forward=1 "
        "(net.ipv4.conf.cni0.forwarding is 0)",
        "packets from wg0 are not forwarded over IPv6: set net.ipv6.conf.all.forwarding=1",
        "pods behind cni0 cannot send to other sites over IPv6: set net.ipv6.conf.all.forwarding=1",
    ]
    tree(old_kernel, ipv6__conf__all__forwarding="1", ipv4__conf__cni0__forwarding="1")
    assert switches.forwarding_problems(ipv4=["cni0"], ipv6=["cni0"], ipv6_pods=True) == []


def test_no_ipv6_pods_no_sentence_about_ipv6(old_kernel: Path) -> None:
    switches = InterfaceSysctls("wg0", old_kernel)
    switches.prepare(ipv6_pods=False)
    assert switches.forwarding_problems(ipv4=[], ipv6=[], ipv6_pods=False) == []


def test_what_was_changed_is_set_back_and_nothing_else(old_kernel: Path) -> None:
    switches = InterfaceSysctls("wg0", old_kernel)
    tree(old_kernel, ipv6__conf__wg0__addr_gen_mode="1")
    switches.prepare(ipv6_pods=False)
    assert switches.before == {"ipv4/conf/wg0/forwarding": "0"}
    switches.prepare(ipv6_pods=False)
    switches.restore()
    assert (old_kernel / "ipv4/conf/wg0/forwarding").read_text().strip() == "0"
    assert (old_kernel / "ipv6/conf/wg0/addr_gen_mode").read_text().strip() == "1"


def test_a_switch_that_cannot_be_set_is_named(old_kernel: Path) -> None:
    # As /proc/sys of a container, where writing fails: nothing was prepared here.
    assert InterfaceSysctls("wg0", old_kernel).forwarding_problems(ipv4=[], ipv6=[], ipv6_pods=False) == [
        "packets from wg0 are not forwarded over IPv4, and the switch cannot be set: "
        "set net.ipv4.conf.wg0.forwarding=1"
    ]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"ipv4__x": "0"}, "IPv6 is not in this kernel (or it was started with ipv6.disable=1)"),
        ({"ipv6__conf__wg0__disable_ipv6": "0"}, ""),
        (
            {"ipv6__conf__wg0__disable_ipv6": "1", "ipv6__conf__all__disable_ipv6": "1"},
            "IPv6 is disabled on this host (net.ipv6.conf.all.disable_ipv6=1)",
        ),
        (
            {"ipv6__conf__wg0__disable_ipv6": "1", "ipv6__conf__all__disable_ipv6": "0"},
            "IPv6 is disabled on wg0 (net.ipv6.conf.wg0.disable_ipv6=1)",
        ),
    ],
)
def test_why_there_is_no_ipv6(tmp_path: Path, values: dict[str, str], why: str) -> None:
    assert InterfaceSysctls("wg0", tree(tmp_path, **values)).ipv6_off() == why
