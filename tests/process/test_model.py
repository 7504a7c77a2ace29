"""`node evaluate` and `node predict` on a model that was really trained."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import nodes
from nodes.training.result import write_model
from tests.support.process import environment, run

pytestmark = pytest.mark.usefixtures("no_orphans")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run's folder, and its result."""
    folder = tmp_path_factory.mktemp("trained")
    done = run(
        *("nodes", "train", "digits", "--json", "--epochs", "8", "--output", "run"),
        *("--set", "data.validation=0.1"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run", json.loads(done.stdout)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images as a CSV with the label last, as the bundled set numbers their levels: 0 to 16."""
    path = tmp_path_factory.mktemp("data") / "digits.csv"
    images, labels = load_digits(return_X_y=True)
    np.savetxt(path, np.column_stack([images, labels]), "%d", ",")
    return path


def test_the_command_and_the_library_predict_the_same(
    tmp_path: Path, trained: tuple[Path, dict[str, Any]], digits: Path
) -> None:
    images, labels = load_digits(return_X_y=True)
    model = nodes.load(trained[0])
    wanted = model.predict(images)
    done = run("nodes", "predict", str(trained[0]), str(digits), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(done.stdout.splitlines())
    assert header == ["class", *(f"p_{number}" for number in range(10))]
    found = np.array([row[1:] for row in rows], np.float32)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=0)
    classes = [int(row[0]) for row in rows]
    assert classes == model.classes(images).tolist()
    assert np.mean(classes == labels) > 0.9

    np.save(tmp_path / "images.npy", images.astype(np.uint8).reshape(-1, 8, 8))
    arguments = ["images.npy", "--device", "auto", "-o", "chances.npy"]
    done = run("nodes", "predict", str(trained[0]), *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "device: 0:" in done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "chances.npy"), wanted, rtol=1e-5, atol=0)


def test_evaluation_gives_what_the_run_did(
    tmp_path: Path, trained: tuple[Path, dict[str, Any]], digits: Path
) -> None:
    done = run("nodes", "evaluate", str(trained[0]), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "device: 0:" in done.stderr
    metrics = json.loads(done.stdout)
    assert (metrics["rows"], metrics["data"]) == (359, None)
    assert metrics["accuracy"] == trained[1]["accuracy"]
    assert metrics["loss"] == pytest.approx(trained[1]["test_loss"], rel=1e-5)
    assert np.sum(metrics["confusion"]) == 359
    assert np.trace(metrics["confusion"]) == round(metrics["accuracy"] * 359)

    place = str(trained[0] / "model.safetensors")
    done = run("nodes", "evaluate", place, str(digits), "--device", "numpy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rows 1,797  accuracy 0.9")
    assert "device: numpy" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "rows.csv", "MODEL"], "rows.csv: damaged, or not a safetensors file"),
        (["predict", "MODEL", "rows.csv"], "rows.csv: line 1: 3 columns, but the model takes 64"),
        (["predict", "MODEL", "rows.csv", "-o", "x.txt"], "must end in .csv or .npy"),
        (["evaluate", "OTHER"], "is no more what it was trained on"),
    ],
)
def test_a_wrong_argument_is_one_line(
    tmp_path: Path, trained: tuple[Path, dict[str, Any]], arguments: list[str], says: str
) -> None:
    (tmp_path / "rows.csv").write_text("1,2,3\n")
    model = nodes.load(trained[0])
    data = {**model.recipe["data"], "source": "iris"}
    other = tmp_path / "other.safetensors"
    recipe = json.dumps({**model.recipe, "data": data})
    write_model(other, model.weights, model.model, model.schema, recipe)
    places = {"MODEL": str(trained[0]), "OTHER": str(other)}
    done = run("nodes", *(places.get(one, one) for one in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("node: ")
    assert says in line


@pytest.mark.parametrize(
    ("redirection", "code", "says"),
    [
        ("| head -n 1", 1, None),
        (">&-", 0, None),
        (">/dev/full", 1, "No space left on device"),
    ],
)
def test_a_closed_or_full_stdout_leaves_no_traceback(
    tmp_path: Path,
    trained: tuple[Path, dict[str, Any]],
    digits: Path,
    redirection: str,
    code: int,
    says: str | None,
) -> None:
    line = f"{sys.executable} -m nodes predict {trained[0]} {digits} {redirection}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert says is None or says in done.stderr


def test_a_regression_from_a_file_to_predictions(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    points = chance.uniform(-3, 3, (400, 2))
    plane = 2 * points[:, 0] - 3 * points[:, 1] + 1
    rows = np.column_stack([points, plane])
    np.savetxt(tmp_path / "plane.csv", rows, "%.6f", ",", header="a,b,y", comments="")
    recipe = """
        model = { layers = [{ units = 16 }, {}] }
        data = { path = "plane.csv", label = "y", task = "regression" }
        train = { epochs = 40, batch_size = 32, rule = "adam", rate = 0.01 }
    """
    (tmp_path / "plane.toml").write_text(recipe)
    done = run("nodes", "train", "plane.toml", "--json", "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy"] is None
    assert result["test_loss"] < 0.5  # the variance of y is 39
    done = run("nodes", "evaluate", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert (metrics["rows"], metrics["loss"]) == (80, pytest.approx(result["test_loss"], rel=1e-5))
    assert metrics["r2"] > 0.98
    (tmp_path / "new.csv").write_text("a,b\n1,1\n0,0\n")
    done = run("nodes", "predict", "run", "new.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    header, *found = done.stdout.split()
    assert header == "y"
    np.testing.assert_allclose([float(value) for value in found], [0, 1], atol=1.0)
