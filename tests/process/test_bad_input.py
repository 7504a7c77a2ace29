"""Bad input of any kind: one clear line, the right exit code, nothing left running."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from kernels.device.discovery import devices
from tests.support.process import Running, run

pytestmark = pytest.mark.usefixtures("no_orphans")


def fails(code: int, *arguments: str, cwd: Path, **env: str) -> str:
    """Run `node` and return the one line it ends with; the result says the same as JSON."""
    done = run("nodes", *arguments, cwd=cwd, **env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("node: ")]
    assert len(lines) == 1, done.stderr
    if "--json" in arguments:
        result = json.loads(done.stdout)
        assert result["status"] == "failed"
        assert result["error"] in lines[0]
    return lines[0].removeprefix("node: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digitz"], "digits"),
        (["digits", "--set", "train.epoch=3"], "train.epoch: unknown key (did you mean epochs?)"),
        (["digits", "--set", "train.epochs=many"], "train.epochs: must be a whole number"),
        (["digits", "--set", "train.rate=-1"], "train.rate"),
        (["digits", "--consistency", "bps"], "bsp, ssp, asp"),
        (["digits", "--set", "cluster.replicas=2"], "replication does not exist yet"),
        (["digits", "--set", "mode=sandblaster"], "not built yet"),
        (["digits", "--device", "abacus"], "abacus"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
        (["digits", "--join", "nowhere"], "--join nowhere: write it as host:port"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: Path, arguments: list[str], says: str) -> None:
    code = 3 if "abacus" in arguments else 2
    assert says in fails(code, "train", *arguments, "--json", cwd=tmp_path)


def test_every_fault_of_a_file_has_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(
        '[model]\nlayers = [{units = 4}, {units = 0}]\n[data]\nsource = "digits"\n[train]\nepoch = 3\n'
    )
    done = run("nodes", "config", "check", "bad.toml", cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert any("bad.toml: model.layers.1.units: must be positive" in line for line in lines)
    assert any("bad.toml: train.epoch: unknown key" in line for line in lines)


def test_missing_mnist_names_both_ways_to_get_it(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    line = fails(
        2,
        *("train", "mnist", "--json"),
        cwd=tmp_path,
        PARAMSERVER_DATA=str(empty),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert "data.path" in line
    assert "PARAMSERVER_DATA" in line
    assert not (tmp_path / "runs").exists(), "nothing is left of a run that could not begin"


def test_a_truncated_file_is_named(tmp_path: Path, data_dir: Path) -> None:
    folder = tmp_path / "mnist"
    shutil.copytree(data_dir / "mnist", folder)
    path = folder / "t10k-images-idx3-ubyte.gz"
    raw = gzip.decompress(path.read_bytes())
    path.chmod(0o600)
    path.write_bytes(gzip.compress(raw[:-1000], 1))
    line = fails(2, "train", "mnist", "--data", str(folder), "--json", cwd=tmp_path)
    assert "t10k-images-idx3-ubyte" in line


def test_a_csv_with_a_bad_cell_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b,label\n1,2,0\n3,x,1\n")
    (tmp_path / "mine.toml").write_text(
        '[model]\nlayers = [{units = 4}, {}]\n[data]\npath = "mine.csv"\n'
    )
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").touch()
    for output in ("new/folder", "kept", "not/../kept"):
        line = fails(2, "train", "mine.toml", "--json", "--output", output, cwd=tmp_path)
        assert "mine.csv" in line
        assert "3" in line
        assert {path.name for path in tmp_path.iterdir()} == {"kept", "mine.csv", "mine.toml"}
        assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = fails(3, "train", "digits", "--set", f"status.port={port}", "--json", cwd=tmp_path)
        assert str(port) in line
        done = run(
            "paramserver", "start", "--embedded", "--listen", f"127.0.0.1:{port}", cwd=tmp_path
        )
        assert done.returncode == 3
        assert f"port {port} of 127.0.0.1 is in use" in done.stderr


def test_no_device_says_what_to_install(tmp_path: Path) -> None:
    line = fails(3, "train", "digits", "--json", cwd=tmp_path, POCL_DEVICES="none")
    assert "pyopencl[pocl]" in line
    assert "numpy" in line


def test_a_worker_without_its_device_ends_the_run_with_its_words(tmp_path: Path) -> None:
    done = run("nodes", "start", "--join", "127.0.0.1:1", "--device", "abacus", cwd=tmp_path)
    assert done.returncode == 3
    assert "abacus" in done.stderr


@pytest.mark.skipif(not devices(), reason="no OpenCL device on this host")
def test_a_model_that_is_more_than_its_memory_names_the_setting(tmp_path: Path) -> None:
    line = fails(2, "train", "digits", "--json", "--set", "device.memory=20000", cwd=tmp_path)
    assert "may give 20,000 bytes by device.memory = 20000" in line
    line = fails(
        3, *("train", "digits", "--json"), "--set=device.memory=0.5", "--device=numpy", cwd=tmp_path
    )
    assert "device.memory bounds OpenCL devices" in line


def test_nobody_at_the_address_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        line = fails(3, "start", "--join", address, "--device", "numpy", cwd=tmp_path)
    assert address in line


def test_a_wrong_secret_and_garbage_are_refused_and_the_peer_lives(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name * 20)
        (tmp_path / name).chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = ["start", "--embedded", "--listen", address, "--secret-file", "one"]
    with Running(
        "paramserver", *arguments, "--set", "device.select=numpy", cwd=tmp_path
    ) as running:
        running.wait_until(lambda: "others join" in running.said)
        join = ["start", "--join", address, "--device", "numpy", "--secret-file"]
        assert "secret" in fails(3, *join, "two", cwd=tmp_path)
        host, port = address.split(":")
        for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096), b"PS\x01" * 1000):
            with socket.create_connection((host, int(port)), 5) as raw:
                raw.settimeout(10)
                raw.sendall(garbage)
                while raw.recv(4096):
                    pass
        with Running("nodes", *join, "one", cwd=tmp_path) as worker:
            worker.wait_until(lambda: "serves at" in worker.said)
            worker.process.terminate()
            worker.process.wait(10)
        assert running.process.poll() is None
        running.process.terminate()
        running.process.wait(10)


def test_beyond_loopback_without_a_secret_is_refused(tmp_path: Path) -> None:
    done = run("paramserver", "start", "--embedded", "--listen", "0.0.0.0:0", cwd=tmp_path)
    assert done.returncode == 2
    assert "secret" in done.stderr
