"""pyroute2 in parts: it works, it is small, and it does not harm one that is whole."""

import subprocess
import sys

import pytest

PART = """
import sys
from raven.net.pyroute import IPRoute, NetlinkError
with IPRoute() as route:
    assert any(link.get("ifname") == "lo" for link in route.get_links())
    try:
        route.link("get", index=1 << 30)
    except NetlinkError:
        pass
assert not any(name.startswith(("pyroute2.ndb", "pyroute2.plan9")) for name in sys.modules)
"""
WHOLE = """
import pyroute2
from raven.net.pyroute import IPRoute
assert IPRoute is pyroute2.IPRoute
"""


@pytest.mark.parametrize("code", [PART, WHOLE])
def test_in_a_fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)
