"""An asyncio peer-to-peer parameter server that computes in OpenCL kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramserver.library import Client, connect
    from paramserver.spec import Rule

__version__ = "0.1.0"
__all__ = ["Client", "Rule", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    """Load the library's door only when it is used: importing a part stays quick."""
    if name in ("Client", "connect"):
        from paramserver import library

        return getattr(library, name)
    if name == "Rule":
        from paramserver.spec import Rule

        return Rule
    raise AttributeError(f"module 'paramserver' has no attribute {name!r}")
