"""Where a user's files lie between processes: kernels, locks, what was found out about devices.

They lie where the XDG specification puts them (https://specifications.freedesktop.org/basedir-spec/).
A container or a service may have no home, or one that cannot be written to. Then they lie in a folder
that belongs to its user alone, below the temporary one.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Literal

from kernels.errors import NoFolder

Kind = Literal["cache", "state"]

_BELOW_HOME: dict[Kind, str] = {"cache": ".cache", "state": ".local/state"}
_REMEDY = "set XDG_CACHE_HOME or TMPDIR to a folder that you may write to"


def cache_folder() -> Path:
    """Return the folder for kernels and locks, in the user's cache or else in the private folder.

    pyopencl keeps a file of its own in the user's cache (by pytools) and fails if it cannot. So
    XDG_CACHE_HOME of this process, which its children inherit, is changed if another cache is used.

    Raises:
        NoFolder: see `writable_folder`.
    """
    wanted, name = wanted_folder("cache", "kernels"), "cache/paramserver/kernels"
    folder = writable_folder(wanted, name)
    if _trouble(folder.parents[1] / "pytools"):
        folder = writable_folder(None, name)
    base, given = str(folder.parents[1]), os.environ.get("XDG_CACHE_HOME")
    if (given or folder != wanted) and given != base:
        os.environ["XDG_CACHE_HOME"] = base
    return folder


def user_folder(kind: Kind, name: str) -> Path:
    """Return and make the folder ``name`` of ours among the user's files of a kind.

    Raises:
        NoFolder: see `writable_folder`.
    """
    return writable_folder(wanted_folder(kind, name), f"{kind}/paramserver/{name}")


def wanted_folder(kind: Kind, name: str) -> Path | None:
    """Return where the folder ``name`` of ours belongs, or None if this user has no home.

    A variable that is empty or relative counts as unset. ``/`` is no home: container runtimes give it
    to users who have none. A home that is not there counts as none, because it is not ours to make.
    """
    given = Path(os.environ.get(f"XDG_{kind.upper()}_HOME", ""))
    if given.is_absolute():
        return given / "paramserver" / name
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry among the system's users
        return None
    if not home.is_absolute() or home == home.parent or not os.path.isdir(home):
        return None
    return home / _BELOW_HOME[kind] / "paramserver" / name


def writable_folder(wanted: Path | None, otherwise: str) -> Path:
    """Return ``wanted`` if it can be made and written, else ``otherwise`` in the private folder.

    That is ``paramserver-UID`` below TMPDIR or /tmp, with mode 0700. If somebody else made it, or may
    write to it, it is refused, because code is loaded from there.

    Raises:
        NoFolder: neither can be written; the text names the folder and says what to do.
    """
    private = temporary_folder() / f"paramserver-{os.geteuid()}"
    if wanted is not None and not wanted.is_relative_to(private) and not _trouble(wanted):
        return wanted
    _make_private(private)
    folder = private / otherwise
    if trouble := _trouble(folder):
        raise NoFolder(f"{folder} cannot be written ({trouble}): {_REMEDY}")
    return folder


def temporary_folder() -> Path:
    """Return TMPDIR if it is set, else /tmp; `tempfile` would go on to the current folder."""
    given = Path(os.environ.get("TMPDIR", ""))
    return given if given.is_absolute() else Path("/tmp")


def _trouble(folder: Path) -> str:
    """Make a folder and, for a moment, a file in it; return what is in the way, or "".

    Permissions alone do not tell: root passes over them, and a disk may be mounted read-only.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def _make_private(folder: Path) -> None:
    """Make a folder that nobody else can enter; other processes may do so at the same time.

    Raises:
        NoFolder: it cannot be made, or what lies there is not this user's alone.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            why = "it is no folder"
        elif found.st_uid != os.geteuid():
            why = f"it belongs to user {found.st_uid}"
        elif found.st_mode & 0o022:
            why = "others may write to it"
        else:
            if found.st_mode & 0o777 != 0o700:
                folder.chmod(0o700)
            return
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise NoFolder(f"{folder} cannot be made ({why}): {_REMEDY}") from None
    raise NoFolder(f"{folder} is not a folder of your own ({why}): remove it, or {_REMEDY}")
