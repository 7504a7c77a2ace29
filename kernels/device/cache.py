"""Where kernels, locks and what was found out about devices are kept between processes."""

import os
import stat
import tempfile
from pathlib import Path

from kernels.errors import DeviceError


def cache_folder() -> Path:
    """Return the folder for locks in the user's cache, or in the temporary folder without one.

    Raises:
        DeviceError: others may write to the temporary folder's, so what it holds proves nothing.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "paramserver" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"paramserver-kernels-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if own and found.st_mode & 0o022:
                folder.chmod(0o700)
        except OSError as error:
            own, why = False, f" ({error.strerror})"
        else:
            why = ""
        if not own:
            raise DeviceError(
                f"{folder} is not a folder of your own{why}: remove it, or set XDG_CACHE_HOME to "
                "one that is"
            ) from None
    return folder
