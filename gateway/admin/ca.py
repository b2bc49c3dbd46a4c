"""Replacing the CA, for `raven-gateway ca`: in the state directory, or in the registry its cluster shares.

Gateways that run take it by themselves within seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from raven.registry import ca_rotation, shared_ca
from raven.registry.follower_state import check_leads
from raven.registry.shared_state import read_shared_file


def rotate(directory: Path, *, now: float, random: Callable[[int], bytes]) -> bytes:
    """Makes a new CA; its pin. RefusedError "rotating" during an overlap."""
    check_leads(directory, now=now)
    if (shared := read_shared_file(directory, now=now)) is None:
        return ca_rotation.stage(directory, now=now, random=random).pin
    from raven.registry.kubernetes_start import change_ca

    return change_ca(shared, partial(shared_ca.rotated, now=now, random=random))


def retire(directory: Path, *, now: float) -> None:
    """Ends the overlap. RefusedError "not-rotating"."""
    if (shared := read_shared_file(directory, now=now)) is None:
        ca_rotation.retire(directory)
        return
    from raven.registry.kubernetes_start import change_ca

    change_ca(shared, shared_ca.retired)
