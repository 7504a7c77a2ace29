"""Find and import frameworks that need not be installed.

Their types are not looked at, since whether they are installed must not matter to a type checker.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from benching.printing import Sheet
from paramserver.errors import NotReady

TITLES = {"torch": "PyTorch", "jax": "JAX"}
"""What people call them."""


def is_installed(package: str, sheet: Sheet) -> bool:
    """Say whether a framework is installed; where it is not, note how to get it."""
    if importlib.util.find_spec(package) is not None:
        return True
    sheet.note(
        f"{TITLES[package]} is not installed, so it is left out; to compare with it: "
        f"{sys.executable} -m pip install {package}"
    )
    return False


def load(module: str) -> Any:
    """Import a framework's module.

    Raises:
        NotReady: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # native code that does not fit raises what it likes
        raise NotReady(f"cannot import {module}: {type(error).__name__}: {error}") from error
