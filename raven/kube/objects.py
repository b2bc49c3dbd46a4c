"""What all objects of the API have, how they are spelled, read and changed; `resources` has the kinds.

Each struct holds the fields that we use, and nothing else of the object; so caches stay small. What we do not
know survives because an object that exists is only ever changed by the merge patch between two structs
(`patch_between`), never sent whole. Unknown fields, kinds of a newer version and nulls are read over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec

JSON = dict[str, Any]


class Part(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True, frozen=True):
    """What all objects here and their parts share."""


class OwnerReference(Part, frozen=True):
    api_version: str
    kind: str
    name: str
    uid: str


class Meta(Part, frozen=True):
    name: str = ""
    namespace: str = ""
    generate_name: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def key(self) -> str:
        """NAMESPACE/NAME, or NAME where there are no namespaces."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Resource(Protocol):
    """Any object with metadata."""

    @property
    def metadata(self) -> Meta: ...


T = TypeVar("T", bound=Resource)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of object in one version of its API."""

    group: str  # "" for the core group
    version: str
    plural: str
    kind: str
    type: type[T]
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of the collection, of one object, or of its subresource."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            assert self.namespaced, self.plural
            parts += ["namespaces", namespace]
        parts += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/" + "/".join(parts)

    def encode(self, obj: T) -> bytes:
        """The object as it is created."""
        body: JSON = {"apiVersion": self.api_version, "kind": self.kind, **msgspec.to_builtins(obj)}
        return msgspec.json.encode(body)


class ListMeta(Part, frozen=True):
    resource_version: str = ""
    next_page: str = msgspec.field(default="", name="continue")


class Condition(Part, frozen=True):
    """A condition of a status; `Node` has some without a reason."""

    type: str
    status: str  # True, False or Unknown
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    observed_generation: int = 0


def decode_untrusted(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """The object in `data`; msgspec.DecodeError when it lacks what we cannot do without.

    An explicit null, which Go writes for an empty list, means the same as a missing field.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), kind)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def patch_between(old: T, new: T) -> JSON:
    """The JSON merge patch (RFC 7396) that makes `old` into `new`; empty when there is nothing to do.

    It names `old`'s resource version, so that a writer who was faster is never overwritten.
    """
    patch: JSON = _diff(msgspec.to_builtins(old), msgspec.to_builtins(new))
    if patch and old.metadata.resource_version:
        patch.setdefault("metadata", {})["resourceVersion"] = old.metadata.resource_version
    return patch


def _diff(old: JSON, new: JSON) -> JSON:
    patch: JSON = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := _diff(before, value):
                patch[key] = inner
        elif value != before:
            patch[key] = value
    return patch


def timestamp(moment: float, *, micro: bool = False) -> str:
    """Unix seconds in the API's spelling: whole seconds, or microseconds where it wants them."""
    return datetime.fromtimestamp(moment, UTC).strftime(
        "%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ"
    )


def moment(text: str | None) -> float | None:
    """The Unix seconds of a timestamp; None for none and for what is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
