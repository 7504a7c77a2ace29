"""The README's example runs as it stands there."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from zookeeping.server import Ensemble

from tests.support.process import ROOT, Running, environment, run

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


@pytest.mark.usefixtures("zookeeper")
def test_zookeeper_takes_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"```\n([^`]*?tickTime=.*?)```", text, re.DOTALL)
    assert "`" not in re.sub("`myid`", "", lines)
    with Ensemble(tmp_path, 1) as ensemble:
        (server,) = ensemble.servers
        server.kill()
        config = tmp_path / "1" / "zoo.cfg"
        kept = [one for one in config.read_text().splitlines() if "=" in one]
        given = re.sub(r"zk\d", "127.0.0.1", lines).replace("/var/lib/zookeeper", str(tmp_path))
        ours = [one for one in given.splitlines() if not one.startswith(("clientPort", "server"))]
        whole = [*kept, *ours, *(one for one in given.splitlines() if one.startswith("server.1="))]
        config.write_text("\n".join(whole) + "\n")
        (tmp_path / "myid").write_text("1\n")
        server.start()
        server.wait()


def test_a_service_starts_as_the_readme_says(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (unit,) = re.findall(r"```ini\n(\[Unit\].*?)```", text, re.DOTALL)
    (peer,) = re.findall(r"```toml\n(\[cluster\]\nname.*?)```", text, re.DOTALL)
    (tmp_path / "peer.toml").write_text(peer)
    checked = run("paramserver", "config", "check", "--config", "peer.toml", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "valid\n")
    (line,) = re.findall(r"^ExecStart=/opt/paramserver/bin/%i (.*)$", unit, re.MULTILINE)
    for module, role in [("paramserver", "shard"), ("nodes", "worker")]:
        words = line.replace("%l-%i", "b-1").replace("/etc/paramserver/peer.toml", "own.toml")
        own = tmp_path / "own.toml"
        own.write_text('[cluster]\nname = "lab"\n[cluster.zookeeper]\naddress = "127.0.0.1:1"\n')
        quick = ("--set", "cluster.deadline=0.5", "--set", "device.select=numpy")
        done = run(module, *words.split(), *quick, cwd=tmp_path)
        assert done.returncode == 3, role
        assert "ZooKeeper 127.0.0.1:1" in done.stderr
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD-ANALYZE: the unit file itself was not checked")
    for name in ("paramserver", "node"):
        service = tmp_path / f"paramserver@{name}.service"
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        service.write_text(unit.replace("/opt/paramserver", str(tmp_path)))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(service)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
