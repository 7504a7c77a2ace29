import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The folder with MNIST's files: $PARAMSERVER_DATA/mnist, else ../shared/data/mnist."""
    beside = Path(__file__).parents[3].parent / "shared" / "data"
    folder = Path(os.environ.get("PARAMSERVER_DATA") or beside) / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no MNIST: neither PARAMSERVER_DATA names its folder nor is it at {folder}")
    return folder
