"""Small values as bytes: msgpack, with small numpy arrays. The only importer of msgpack-numpy.

msgpack-numpy 0.4.8 unpickles when a peer sends ``kind=b'O'``, and builds object arrays over the
sender's bytes for ``type='|O'`` even without it. So nothing reaches its decoder that was not checked
here: the keys, the dtype against a list of numeric ones, and the length against the shape.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np

from paramserver.errors import BadMessage

LONGEST = 1 << 20
TRUSTED = 1024
MOST_DIMENSIONS = 8
DTYPES = {
    np.dtype(code).str: np.dtype(code)
    for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
}
_ARRAY_KEYS = {b"nd", b"type", b"kind", b"shape", b"data"}
_SCALAR_KEYS = {b"nd", b"type", b"data"}


def pack(value: Any) -> bytes:
    """Return ``value`` as bytes: None, bool, int, float, str, bytes, lists, maps and arrays.

    Raises:
        BadMessage: it holds something else, or an array of a dtype that is not allowed.
    """
    try:
        packed: bytes = msgpack.packb(value, default=_encode, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessage(f"cannot be packed: {error}") from error
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """Read what `pack` wrote; sizes are checked before memory is taken.

    Raises:
        BadMessage: the bytes are malformed, too long, or describe an array that is not allowed.
    """
    size = len(data)
    if size > LONGEST:
        raise BadMessage(f"a message of {size} bytes where {LONGEST} are allowed")
    try:
        if size > TRUSTED:
            _walk(data, size)
        return msgpack.unpackb(
            data,
            object_hook=_decode,
            ext_hook=_refuse_extension,
            raw=False,
            strict_map_key=False,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=size,
            max_map_len=size,
            max_ext_len=0,
        )
    except BadMessage:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise BadMessage(f"not a message: {type(error).__name__}: {error}") from error


def _walk(data: bytes | memoryview, size: int) -> None:
    """Hold the lengths announced against the bytes there are, without making an object.

    Each list takes its memory when its length is read: a thousand nested ones, each announcing as
    many elements as the message has bytes, would take gigabytes before the end is missed.
    """
    walker = msgpack.Unpacker(
        max_buffer_size=size,
        read_size=size,
        max_str_len=size,
        max_bin_len=size,
        max_array_len=size,
        max_map_len=size,
        max_ext_len=0,
    )
    walker.feed(data)
    walker.skip()


def _refuse_extension(code: int, data: bytes) -> Any:
    raise BadMessage(f"an extension of type {code}")


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.str not in DTYPES:
            raise BadMessage(f"arrays of dtype {value.dtype} do not travel")
        array = np.asarray(value)
        return msgpack_numpy.encode(np.ascontiguousarray(array) if array.ndim else array[()])
    raise TypeError(f"{type(value).__name__} does not travel")


def _decode(value: dict[Any, Any]) -> Any:
    """Turn a map that describes an array into one, once it has been checked."""
    if b"complex" in value:
        raise BadMessage("complex numbers do not travel")
    if b"nd" not in value:
        return value
    name, data = value.get(b"type"), value.get(b"data")
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None or not isinstance(data, bytes):
        raise BadMessage(f"an array of type {name!r:.80} is not allowed")
    if value[b"nd"] is True:
        shape = value.get(b"shape")
        if set(value) != _ARRAY_KEYS or value[b"kind"] != b"":
            raise BadMessage("an array of an unknown kind")
        if (
            not isinstance(shape, list)
            or len(shape) > MOST_DIMENSIONS
            or not all(type(length) is int and length >= 0 for length in shape)
        ):
            raise BadMessage(f"an array of shape {shape!r:.80}")
        wanted = math.prod(shape) * dtype.itemsize
    elif value[b"nd"] is False:
        if set(value) != _SCALAR_KEYS:
            raise BadMessage("a scalar of an unknown kind")
        wanted = dtype.itemsize
    else:
        raise BadMessage("neither an array nor a scalar")
    if len(data) != wanted:
        raise BadMessage(f"an array of {len(data)} bytes where {wanted} belong")
    if dtype.kind == "b" and data.strip(b"\0\1"):
        raise BadMessage("booleans beyond 0 and 1")
    return msgpack_numpy.decode(value)
