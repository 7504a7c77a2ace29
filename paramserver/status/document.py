"""The status document as bytes of JSON."""

from __future__ import annotations

import json
import math
from typing import Any


def encode(document: dict[str, Any]) -> bytes:
    """Return a document as one line of ASCII JSON; numbers that JSON does not know become null."""
    return json.dumps(_finite(document), allow_nan=False, separators=(",", ":")).encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
