"""Checkpoints on disk: whole or absent, whatever happens while one is written."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from safetensors.numpy import save_file

from paramserver.checkpoint import (
    MANIFEST,
    STATE_FILE,
    TableState,
    load,
    load_latest,
    next_attempt,
    write,
)
from paramserver.errors import BadCheckpoint, NotReady
from paramserver.spec import Rule, RunSpec, TableSpec

SIZE = 5000
SPEC = RunSpec(
    name="a-run",
    examples=100,
    table=TableSpec(size=SIZE, rule=Rule(name="adam"), consistency="bsp"),
)


def state_of(clock: int) -> TableState:
    state = TableState.empty(SIZE, "adam")
    for index, array in enumerate(state.arrays):
        array[:] = clock * 10 + index
    state.versions[:] = clock
    return state


def save(parent: Path, clock: int, keep: int = 3, attempt: int = 1) -> Path:
    state = state_of(clock)
    table = {"consistency": "bsp", "clock": clock, "steps": clock}
    spec = SPEC.model_copy(update={"attempt": attempt})
    return write(
        parent, spec, table, state, lambda path: save_file({"w": state.weights}, path), keep=keep
    )


def clock_at(parent: Path) -> int:
    found = load_latest(parent, lambda _: None)
    for index, values in enumerate(found.states()):
        assert (values == found.clock * 10 + index + 1).all()
    return found.clock


def test_what_was_written_is_read_and_the_last_few_are_kept(tmp_path: Path) -> None:
    folders = [save(tmp_path, clock) for clock in (1, 2, 10, 9, 30)]
    found = load(folders[-1])
    assert (found.clock, found.spec, found.versions.tolist()[0]) == (30, SPEC, [30, 30])
    assert [values[0] for values in found.states()] == [301, 302]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(
        folder.name for folder in (folders[2], folders[3], folders[4])
    )


@pytest.mark.parametrize("name", [MANIFEST, STATE_FILE, "model.safetensors"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    tmp_path: Path, name: str, how: str
) -> None:
    save(tmp_path, 1)
    bad = save(tmp_path, 2)
    path = bad / name
    if how == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-7] if how == "cut" else data)
    said: list[str] = []
    assert load_latest(tmp_path, said.append).clock == 1
    assert len(said) == 1
    assert str(bad) in said[0]
    assert name in said[0]
    with pytest.raises(BadCheckpoint):
        load(bad)
    (tmp_path / bad.name / "more").mkdir()
    (tmp_path / "a-run-1-000000001" / MANIFEST).unlink()
    with pytest.raises(BadCheckpoint, match="all 2 checkpoints"):
        load_latest(tmp_path, said.append)


def test_a_folder_without_checkpoints_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="holds no checkpoint"):
        load_latest(tmp_path, print)
    with pytest.raises(BadCheckpoint, match="holds no checkpoint"):
        load_latest(tmp_path / "nowhere", print)


def test_a_life_that_began_from_an_older_checkpoint_counts_as_the_newest(tmp_path: Path) -> None:
    for clock in (100, 200, 300):
        older = save(tmp_path, clock)
    first = load(tmp_path / "a-run-1-000000100")
    for expected in (2, 3):  # resumed from the same one twice
        attempt = next_attempt(tmp_path, first)
        assert attempt == expected
        made = save(tmp_path, 150, attempt=attempt)
        assert load_latest(tmp_path, print).folder == made
    assert not older.exists() or len(list(tmp_path.iterdir())) == 3
    assert next_attempt(tmp_path / "elsewhere", first) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"versions": [[2**70, 0]]},
        {"versions": []},
        {"files": {}},
        {"files": {"/etc/passwd": {"bytes": 1, "xxh3": ""}}},
        {"table": 3},
        {"clock": -1},
        {"clock": "x"},
        {"written": None},
        {"spec": {}},
        {"more": 1},
    ],
)
def test_a_manifest_that_makes_no_sense_is_a_bad_checkpoint(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["checksum"]
    changed = {**manifest, **change}
    digest = xxhash.xxh3_128_hexdigest(json.dumps(changed, sort_keys=True).encode())
    (folder / MANIFEST).write_text(json.dumps({**changed, "checksum": digest}))
    with pytest.raises(BadCheckpoint) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"format": []}'])
def test_a_manifest_that_is_no_object_is_a_bad_checkpoint(tmp_path: Path, text: str) -> None:
    folder = save(tmp_path, 1)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(BadCheckpoint):
        load(folder)


def test_state_of_another_rule_is_a_bad_checkpoint(tmp_path: Path) -> None:
    found = load(save(tmp_path, 1))
    for tensors in ({"state.0": np.zeros(SIZE, np.float32)}, {}):
        save_file(tensors, found.folder / STATE_FILE)
        with pytest.raises(BadCheckpoint):
            found.states()
    wrong = {f"state.{index}": np.zeros(3, np.float32) for index in range(2)}
    save_file(wrong, found.folder / STATE_FILE)
    with pytest.raises(BadCheckpoint, match="another table"):
        found.states()


KILLING = """
import os, signal
from pathlib import Path
import sys; sys.path.insert(0, sys.argv[2])
from test_checkpoint import clock_at, save

parent, clock, steps = Path(sys.argv[1]), 1, 0
save(parent, clock)
while True:
    child = os.fork()
    if child == 0:
        left = [steps]
        def hook(event, arguments):
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        save(parent, clock + 1, keep=2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    now = clock_at(parent)
    assert now in (clock, clock + 1), (clock, now)
    if status == 0:
        assert now == clock + 1
        break
    save(parent, clock + 2, keep=2)
    clock = clock_at(parent)
    steps += 1
print(steps)
"""


def test_sigkill_at_any_step_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLING, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10  # every open, mkdir, rename and removal was a moment to die at


def test_a_full_disk_changes_nothing_and_training_can_be_saved_later(tmp_path: Path) -> None:
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, SIZE, SIZE * 4, SIZE * 8):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(NotReady, match="a-run-1-000000002"):
                save(tmp_path, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert clock_at(tmp_path) == 1
        assert len(list(tmp_path.iterdir())) == 1
    save(tmp_path, 2)
    assert clock_at(tmp_path) == 2


def test_another_format_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["format"] = "paramserver-checkpoint/99"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BadCheckpoint, match="checkpoint/99"):
        load(folder)
