"""The gateways of a cluster in registry.sqlite: the list that agents are told, and who may follow this one.

The list has a revision of its own. It is the time of the last change in milliseconds rather than a count: a
registry that was restored from a backup would tell numbers that agents have seen already.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from raven.errors import RefusedError
from raven.registry.database import Database
from raven.registry.interface import KnownGateways, TokenRecord
from raven.registry.rows import read_gateway
from raven.registry.rules import check_age

_NEW_LIST = "UPDATE gateway_list SET revision = max(revision + 1, ?)"
_UPSERT_ADDRESS = (
    "INSERT INTO gateways (name, address, created) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET address = excluded.address"
)


def known(database: Database) -> KnownGateways:
    ((revision,),) = database.read("SELECT revision FROM gateway_list")
    found = database.read("SELECT * FROM gateways ORDER BY created, name")
    return KnownGateways(revision, tuple(read_gateway(row) for row in found))


def record(database: Database, name: str, *, address: str, now: float) -> None:
    if database.read("SELECT 1 FROM gateways WHERE name = ? AND address = ?", (name, address)):
        return
    with database.transaction(durable=True) as connection:
        connection.execute(_UPSERT_ADDRESS, (name, address, now))
        connection.execute(_NEW_LIST, (int(now * 1000),))


def replace(database: Database, addresses: Mapping[str, str], *, now: float) -> None:
    """These gateways and no others; nothing is written where that is so already."""
    if dict(database.read("SELECT name, address FROM gateways")) == dict(addresses):
        return
    with database.transaction(durable=True) as connection:
        for row in connection.execute("SELECT name FROM gateways").fetchall():
            if row["name"] not in addresses:
                connection.execute("DELETE FROM gateways WHERE name = ?", (row["name"],))
        connection.executemany(_UPSERT_ADDRESS, [(name, address, now) for name, address in addresses.items()])
        connection.execute(_NEW_LIST, (int(now * 1000),))


def readdress(database: Database, name: str, *, address: str, now: float) -> None:
    changes = "FROM gateways WHERE name = ? AND address <> ?"
    if database.read(f"SELECT 1 {changes}", (name, address)):
        with database.transaction(durable=False) as connection:
            connection.execute("UPDATE gateways SET address = ? WHERE name = ?", (address, name))
            connection.execute(_NEW_LIST, (int(now * 1000),))


def enrol(
    connection: sqlite3.Connection,
    token: TokenRecord,
    *,
    name: str,
    address: str,
    key_hash: bytes,
    now: float,
) -> None:
    """Inside a transaction that spends the token: gateway `name` has that key. Errors as of a node's join."""
    held = connection.execute("SELECT * FROM gateways WHERE name = ?", (name,)).fetchone()
    repeated = held is not None and held["key_hash"] == key_hash and token.used_by == name
    check_age(token, now=now)
    if token.node is not None and token.node != name:
        raise RefusedError("token-node", f"the token is for another gateway than {name}")
    if token.uses and not token.reusable and not repeated:
        raise RefusedError("token-used", "the token has been used; have a new one made")
    if held is not None and (held["key_hash"] is None or token.node is None) and not repeated:
        raise RefusedError("gateway-taken", f"there is a gateway {name} already; choose another name")
    connection.execute(
        "INSERT INTO gateways (name, address, created, key_hash) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET address = excluded.address, key_hash = excluded.key_hash",
        (name, address, now, key_hash),
    )
    connection.execute(_NEW_LIST, (int(now * 1000),))


def check(database: Database, name: str, *, key_hash: bytes) -> None:
    if not database.read("SELECT 1 FROM gateways WHERE name = ? AND key_hash = ?", (name, key_hash)):
        raise RefusedError("gateway-unknown", f"gateway {name} has not joined here, or was removed since")


def remove(database: Database, name: str, *, now: float) -> bool:
    with database.transaction(durable=True) as connection:
        if connection.execute("DELETE FROM gateways WHERE name = ?", (name,)).rowcount == 0:
            return False
        connection.execute(_NEW_LIST, (int(now * 1000),))
        return True
