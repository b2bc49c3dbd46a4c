"""Where things lie on a host, for daemons and commands that are not told otherwise."""

from pathlib import Path
from typing import Final

STATE_DIRECTORY: Final = Path("/var/lib/raven")
GATEWAY_SOCKET: Final = Path("/run/raven/gateway.sock")
AGENT_SOCKET: Final = Path("/run/raven/agent.sock")
