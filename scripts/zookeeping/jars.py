"""Find ZooKeeper's programs: as Debian installs them, or unpacked into the user's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from kernels.device.cache import wanted_folder

SYSTEM = Path("/usr/share/java")
NAMES = ("zookeeper.jar", "slf4j-simple.jar")
"""Their manifests name the others, which lie beside them."""


class NoZooKeeper(Exception):
    """There is no ZooKeeper here, or no Java; the text says how to get it."""


def cache() -> Path:
    """Return the folder that ``scripts/zookeeper`` unpacks Debian's packages into.

    Without a home it is in the checkout's environment, as ``scripts/environment.sh`` has it.
    """
    wanted = wanted_folder("cache", "zookeeper")
    return wanted or Path(__file__).resolve().parents[2] / ".venv/cache/paramserver/zookeeper"


def class_path() -> str:
    """Return Java's class path for a server.

    Raises:
        NoZooKeeper: Java or ZooKeeper is missing.
    """
    for folder in (SYSTEM, cache() / "usr/share/java"):
        jars = [folder / name for name in NAMES]
        if all(jar.is_file() for jar in jars):
            if shutil.which("java") is None or shutil.which("setpriv") is None:
                break
            return ":".join(map(str, jars))
    raise NoZooKeeper(
        "no Java, no setpriv or no ZooKeeper: apt-get install -y --no-install-recommends zookeeper"
    )
