"""`scripts/bench`: its rows, its mean, and how it ends."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benching.busy import at_rest
from benching.choosing import counts
from benching.comparing import compare
from benching.printing import Sheet
from benching.processes import side
from benching.rows import Case, Ready
from benching.suites import Settings

from paramserver.errors import NotReady, ParamserverError
from tests.support.process import ROOT, Running, environment, run

SCRIPTS = ROOT / "scripts"
FIELDS = {"suite", "case", "ours", "other", "against", "unit", "ratio", "spread"}
PATHS = {"PYTHONPATH": f"{SCRIPTS}:{ROOT}", "PYTHONSAFEPATH": "1"}


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("benching", *arguments, cwd=cwd, **PATHS)


@pytest.mark.usefixtures("no_orphans")
def test_rows_are_valid_and_the_last_is_their_geometric_mean(tmp_path: Path) -> None:
    done = bench("rules", "--quick", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *cases, mean = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["case"] for row in cases] == ["sgd/64KiB", "momentum/64KiB", "adam/64KiB"]
    for row in cases:
        assert row.keys() == FIELDS | {"twin", "copy", "ours_is", "other_is", "other_threads"}
        assert row["other_is"].startswith("numpy ")
        assert row["other_threads"] == 1
        assert (row["suite"], row["against"], row["unit"]) == ("rules", "numpy", "GB/s")
        assert row["ratio"] == pytest.approx(row["ours"] / row["other"], rel=1e-3)
        assert row["spread"] >= 0
    ratios = [row["ratio"] for row in cases]
    assert (mean["suite"], mean["case"]) == ("rules", "geomean")
    assert mean["ratio"] == pytest.approx(math.prod(ratios) ** (1 / 3), rel=1e-3)
    assert (mean["worst"], mean["kinds"]["sgd"]) == (min(ratios), ratios[0])
    assert "bench: rules: one update of weights" in done.stderr, "it states what it times"
    assert "bench: processor: " in done.stderr


@pytest.mark.usefixtures("no_orphans")
def test_a_person_gets_an_aligned_table_within_100_columns(tmp_path: Path) -> None:
    done = bench("latency", "--quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("latency: a push and a pull of 1 kB, ")
    assert max(len(line) for line in lines) <= 100
    header = next(line for line in lines if line.startswith("case"))
    assert header.split() == ["case", "ours", "uvloop", "echo", "unit", "ratio", "spread"]
    for case in ("push/1kB", "pull/1kB"):
        row = next(line for line in lines if line.startswith(case))
        _, ours, other, unit, ratio, _ = row.replace(",", "").split()
        assert row.index(unit) == header.index("unit")
        # Of times, and better when larger.
        assert float(ratio) == pytest.approx(float(other) / float(ours), abs=0.006)
    assert [line for line in lines if line.startswith("geomean ")]


def test_an_unknown_suite_is_one_line_that_names_the_others(tmp_path: Path) -> None:
    done = bench("gemmm", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "bench: unknown suite 'gemmm': use gemm, conv, step, rules, wire, latency, train, checkpoint, "
        "start or all\n"
    )


def test_without_a_suite_it_names_them(tmp_path: Path) -> None:
    done = bench(cwd=tmp_path)
    assert done.returncode == 2
    words = {line.split()[0] for line in done.stdout.splitlines()}
    assert words >= {
        "gemm",
        "step",
        "rules",
        "wire",
        "latency",
        "train",
        "checkpoint",
        "start",
        "all",
    }


@pytest.mark.usefixtures("no_orphans")
def test_what_fails_in_a_side_is_one_line_that_names_it(tmp_path: Path) -> None:
    done = bench("rules", "--json", "--device", "abacus", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bench: rules, side ours: device.select = 'abacus' names no device")
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("no_orphans")
def test_frameworks_that_are_missing_or_broken_are_left_out_and_numpy_is_compared_with(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    (tmp_path / "jax.py").write_text("raise OSError('libjax.so: no such file')\n")
    paths = PATHS | {"PYTHONPATH": f"{tmp_path}:{PATHS['PYTHONPATH']}"}
    done = run("benching", "step", "--quick", "--json", "--device=numpy", cwd=tmp_path, **paths)
    assert done.returncode == 0, done.stderr
    assert "bench: PyTorch is not installed, so it is left out; " in done.stderr
    assert (
        "bench: jax is left out: step, side jax: cannot import jax: OSError: libjax.so: no such file\n"
        in done.stderr
    )
    *rows, mean = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["case"] for row in rows] == ["64-64-10/batch32", "64-64-10/batch128"]
    for row in rows:
        assert row["against"] == "numpy"
        assert row["other_is"].startswith("numpy ")
        assert row["other_threads"] in counts(len(os.sched_getaffinity(0)))
    assert mean["against"] == "numpy"


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_its_processes_end_with_it(tmp_path: Path, number: signal.Signals) -> None:
    with Running("benching", "gemm", "--json", "--device=numpy", cwd=tmp_path, **PATHS) as running:
        running.wait_until(lambda: "bench: other: " in running.said)
        running.signal(number)
        running.process.communicate(timeout=10)
        assert running.process.returncode == -number
        assert "Traceback" not in running.said


@pytest.mark.usefixtures("no_orphans")
def test_what_a_side_does_not_do_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PATHS["PYTHONPATH"])

    async def late() -> None:
        settings = Settings(device="numpy", cores=(0,), quick=True)
        async with side("rules", "numpy", settings, ours=False) as one:
            await one.begin()
            case = Case("adam/1", "ms", given={"rule": "adam", "size": 1 << 22})
            await one.ask(f"its being ready for {case.name}", 0.001, prepare=case.given)

    with pytest.raises(
        NotReady, match=r"^rules, side numpy: its being ready for adam/1 did not come"
    ):
        asyncio.run(late())


class Told:
    """A side that measures what it is told."""

    about = ""

    def __init__(self, result: float, *seconds: float) -> None:
        self._result = result
        self._seconds = list(seconds)

    async def prepare(self, _: object) -> Ready:
        return Ready(self._result)

    async def measure(self) -> dict[str, float]:
        return {"seconds": self._seconds.pop(0)}

    async def rest(self) -> None:
        pass


def test_ratio_is_of_medians_and_spread_of_the_turns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sheet, cases = Sheet(sys.stdout, as_json=True), [Case("a/1", "GB/s", 6.0)]
    ours, other = Told(1.0, 1.0, 2.0, 4.0), Told(1.001, 2.0, 6.0, 16.0)
    with sheet.open("made", "up"):
        asyncio.run(compare(sheet, "made", cases, ours, {"them": other}, 3))
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    # The turns' ratios are 2, 3 and 4.
    assert row == {
        "suite": "made",
        "case": "a/1",
        "against": "them",
        "unit": "GB/s",
        "ours": 3.0,
        "other": 1.0,
        "ratio": 3.0,
        "spread": pytest.approx(1 / 3, rel=1e-4),
    }
    with pytest.raises(ParamserverError, match=r"our result is 1, that of them 1\.1"):
        asyncio.run(compare(sheet, "made", cases, Told(1.0), {"them": Told(1.1)}, 3))


def test_a_side_is_at_rest_when_its_threads_have_stopped_spinning() -> None:
    code = (
        "import time; end = time.monotonic() + 0.5; print(flush=True)\n"
        "while time.monotonic() < end: pass\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as spinning:
        assert spinning.stdout is not None
        spinning.stdout.readline()
        began = time.monotonic()
        asyncio.run(at_rest(spinning.pid))
        assert time.monotonic() - began > 0.4
        spinning.kill()


def test_the_script_runs_it_in_the_environment_with_the_benches_alone_on_the_path(
    tmp_path: Path,
) -> None:
    scripts, program = tmp_path / "scripts", tmp_path / ".venv/bin/python"
    scripts.mkdir()
    program.parent.mkdir(parents=True)
    shutil.copy(SCRIPTS / "bench", scripts)
    (scripts / "environment.sh").write_text(
        f'root="{tmp_path}"\n'
        'answer_help() { echo "help: $*"; }\n'
        'ensure_environment() { echo "for: $1"; }\n'
    )
    program.write_text('#!/usr/bin/env bash\necho "$PYTHONPATH $PYTHONSAFEPATH: $*"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [scripts / "bench", "gemm", "a b"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "help: gemm a b",
        "for: run",
        f"{scripts} 1: -m benching gemm a b",
    ]
