"""pyroute2's routing socket without the rest of pyroute2.

The package's own __init__ imports all it has, from IPVS to a 9P server: 10 MB, of which routing needs 5. A
small device pays for either, so the package is entered here without running its __init__. Nothing else may
import pyroute2 before this module does; whoever imported it whole already keeps it whole.
"""

import importlib.util
import sys
import types


def _enter_without_init(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None or spec.submodule_search_locations is None:
        return  # imported whole by somebody, or not installed: then the import below says so
    package = types.ModuleType(name, "Entered by raven.net.pyroute without its __init__.")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[name] = package


_enter_without_init("pyroute2")

from pyroute2.iproute import IPRoute  # noqa: E402 - only once the package was entered
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402 - the same

__all__ = ["IPRoute", "NetlinkError"]
