"""Our packages' names are others' too: see, before anything is computed, that ours are found.

PyPI has a ``kernels`` and a ``nodes``, and a folder that a person works in may hold a ``kernels.py``.
This module imports nothing that could be another's: it is the first that a command runs.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from paramserver.errors import NotReady

DISTRIBUTION = "paramserver"
PACKAGES = ("kernels", "nodes")
OURS = Path(__file__).resolve().parents[1]
"""The folder in which our packages lie."""

OWN_ENVIRONMENT = "install this project into a virtual environment of its own"


def require_ours() -> None:
    """See that Python finds our packages, whole, under each of our names.

    Raises:
        NotReady: another's is found first, or lies in the same folder; the text names it.
    """
    for name in PACKAGES:
        ours = OURS / name / "__init__.py"
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise NotReady(
                f"{ours} is missing, as after the removal of another package called {name}: "
                "install this project again"
            )
        found = Path(spec.origin).resolve()
        if found != ours:
            cure = OWN_ENVIRONMENT if owners(found) else "rename it, or start in another folder"
            raise NotReady(
                f"{found}{owner(found)} is found before this project's package {name}: {cure}"
            )
        for other in owners(found):
            if other.metadata["Name"] != DISTRIBUTION:
                raise NotReady(
                    f"the package {_words(other)} and this project both own {found}, so one has "
                    f"overwritten the other: {OWN_ENVIRONMENT}"
                )


def owners(file: Path) -> list[Distribution]:
    """Return the distributions that installed a module, or a package's ``__init__.py``."""
    place = file.parent.parent if file.name == "__init__.py" else file.parent
    line = f"\n{file.relative_to(place).as_posix()},"
    return [
        one
        for one in distributions(path=[str(place)])
        if line in "\n" + (one.read_text("RECORD") or "")
    ]


def owner(file: Path) -> str:
    """Return the distribution that installed a file, as words; empty where none did."""
    found = owners(file)
    return f" of the package {_words(found[0])}" if found else ""


def _words(one: Distribution) -> str:
    return f"{one.metadata['Name']} {one.version}"
