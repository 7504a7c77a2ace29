"""Messages: annotated classes, each with a kind; their fields travel as a msgpack map.

Other modules define messages with the decorator `message`. Kinds: 1 to 15 transport, 32 to 63
coordination, 64 to 95 data, 96 to 127 run table, 128 to 159 control.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from paramserver.errors import BadMessage
from paramserver.wire.codec import pack, unpack

T = TypeVar("T")


class _Kind:
    """A kind of message: its class, how many fields it has, and their validator once needed."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.count = len(dataclasses.fields(cls))

    @functools.cached_property
    def validate(self) -> Callable[[Any], dict[str, Any]]:
        """The validator: from what a map holds to what the class does."""
        return _adapter(self.cls).validator.validate_python


STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

_KINDS: dict[int, _Kind] = {}
_NUMBERS: dict[type, int] = {}


def _equal(self: object, other: object) -> bool:
    """Two messages are equal where kind and fields are."""
    return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented


def _repr(self: object) -> str:
    fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
    return f"{type(self).__qualname__}({fields})"


@dataclass_transform(frozen_default=True)
def message(kind: int) -> Callable[[type[T]], type[T]]:
    """Make an annotated class a dataclass that travels as ``kind`` (1 to 255).

    That nobody changes a message is for the type checker to see. All share the methods that a frozen
    dataclass compiles for itself: the time for those of 60 classes is felt at every command's start.
    """

    def register(cls: type[T]) -> type[T]:
        cls.__annotations__ = {
            name: _loosen(annotation) for name, annotation in get_type_hints(cls).items()
        }
        for name in cls.__annotations__:
            value = getattr(cls, name, None)
            if isinstance(value, list | dict):
                setattr(cls, name, dataclasses.field(default_factory=value.copy))
        made = dataclasses.dataclass(eq=False, repr=False)(cls)
        if not 0 < kind < 256 or kind in _KINDS:
            raise ValueError(f"kind {kind} of {cls.__name__} is taken or out of range")
        made.__eq__ = _equal  # type: ignore[method-assign]
        made.__hash__ = None  # type: ignore[assignment]
        made.__repr__ = _repr  # type: ignore[method-assign]
        _KINDS[kind] = _Kind(made)
        _NUMBERS[made] = kind
        return made

    return register


def _loosen(annotation: Any) -> Any:
    """Let tuples be read from lists, as msgpack knows only one of them; all else stays strict."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if not inner:
        return annotation
    if origin in (Union, UnionType):
        return Union[tuple(_loosen(one) for one in inner)]  # noqa: UP007
    rebuilt = origin[tuple(one if one is ... else _loosen(one) for one in inner)]
    return Annotated[rebuilt, Strict(False)] if origin is tuple else rebuilt


def _adapter(cls: type) -> TypeAdapter[dict[str, Any]]:
    """Return the validator of a message's fields, as a map."""
    required = {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    fields = {
        name: annotation if name in required else NotRequired[annotation]
        for name, annotation in cls.__annotations__.items()
    }
    typed = with_config(STRICT)(TypedDict(cls.__name__, fields))  # type: ignore[operator]
    return TypeAdapter(typed)


def encode(value: Any) -> tuple[int, bytes]:
    """Return a message's kind and meta."""
    return _NUMBERS[type(value)], pack(value.__dict__)


def decode(kind: int, meta: bytes | memoryview) -> Any:
    """Read a message.

    Raises:
        BadMessage: the kind is unknown, or the meta is not what that kind holds.
    """
    known = _KINDS.get(kind)
    if known is None:
        raise BadMessage(f"unknown kind of message {kind}")
    values = unpack(meta)
    cls = known.cls
    if not isinstance(values, dict):
        raise BadMessage(f"{cls.__name__} is no map")
    try:
        fields = known.validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadMessage(f"{cls.__name__}.{where}: {first['msg']}") from error
    if len(fields) < known.count:
        return cls(**fields)
    # All fields are here and checked: this is what the class's own constructor does, in one go.
    made: Any = object.__new__(cls)
    made.__dict__.update(fields)
    return made


@message(1)
class Hello:
    """The client's first word."""

    cluster: str
    name: str
    incarnation: int
    role: str
    nonce: bytes


@message(2)
class Challenge:
    """The server's answer: who it is, its nonce, and its proof."""

    cluster: str
    name: str
    incarnation: int
    role: str
    nonce: bytes
    proof: bytes


@message(3)
class Proof:
    """The client's proof."""

    proof: bytes


@message(4)
class Welcome:
    """The handshake is done."""


@message(5)
class Failure:
    """A request, or the handshake, was answered with an error; see `paramserver.errors`."""

    code: str
    text: str
    detail: dict[str, Any]
