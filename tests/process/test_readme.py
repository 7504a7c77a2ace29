"""The README's example runs as it stands there."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT, Running, environment

pytestmark = pytest.mark.usefixtures("no_orphans")


def test_the_library_example_fits_its_line(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 45
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "example.py").write_text(code.replace("127.0.0.1:7000", address))
    with Running("paramserver", "start", "--embedded", "--listen", address, cwd=tmp_path) as peer:
        peer.wait_until(lambda: "others join" in peer.said)
        copies = [
            subprocess.Popen(
                [sys.executable, "example.py"],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for copy in copies:
            out, _ = copy.communicate(timeout=60)
            assert copy.returncode == 0
            assert out == "weights [3.0, -2.0, 1.0]\n"
        peer.process.terminate()
        assert peer.process.wait(10) != 0
