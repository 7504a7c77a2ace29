"""`nodes.train` from a program of one's own: in a running loop, with own data, interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.process import Running, environment, gone

pytestmark = pytest.mark.usefixtures("no_orphans")

IN_A_LOOP = """
import asyncio
import json
import warnings

import numpy as np

import nodes
from nodes.data import DataConfig, load_dataset
from paramserver.errors import ParamserverError

SMALL = {"model": {"layers": [{"units": 8, "activation": "relu"}, {}]}}


async def main():
    random = np.random.default_rng(0)
    x = random.normal(3, 9, size=(300, 2, 3))
    y = (x.sum(axis=(1, 2)) > 18).astype(int)
    iris = load_dataset(DataConfig(source="iris"))
    runs = [
        nodes.train("digits", epochs=2, progress=False, train__rate=0.05),
        nodes.train(SMALL, data=(x, y), epochs=9, batch_size=16, peers=1, output="own",
                    progress=False),
        nodes.train("iris", data=iris, epochs=20, shards=1, workers=1, progress=False),
    ]
    faults = []
    for given in ({"bogus": 1}, {"device": "nonesuch"}, {"data": (x, y[:5])}, {"output": "own"}):
        try:
            nodes.train("digits", progress=False, **given)
        except ParamserverError as error:
            faults.append([type(error).__name__, str(error)])
    raw = iris.train_x / iris.transform.factor + iris.transform.mean
    found = {
        "shown": repr(runs[0]),
        "results": [one.dump() for one in runs],
        "names": runs[2].model.class_names,
        "own": float((runs[1].model.classes(x) == y).mean()),
        "iris": float((runs[2].model.predict(raw).argmax(axis=1) == iris.train_y).mean()),
        "faults": faults,
    }
    print(json.dumps(found))


asyncio.run(main())
"""


def test_a_program_trains_in_its_loop_and_with_its_data(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(IN_A_LOOP)
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads(done.stdout)
    digits, own, iris = found["results"]
    assert [one["status"] for one in found["results"]] == ["done"] * 3
    assert found["shown"].startswith(f"<Trained {digits['run']}: done after 2 epochs, accuracy 0.")
    assert digits == json.loads((tmp_path / digits["output"] / "result.json").read_text())
    assert (own["output"], own["examples"], own["peers"]) == ("own", 9 * 240, 1)
    assert set(np.load(tmp_path / "own" / "data.npz")) == {"x", "y"}
    assert found["own"] > 0.8
    assert iris["examples"] == 20 * 120, "its test rows stay its test rows"
    assert found["iris"] > 0.8, "the model prepares raw rows as the data set did"
    assert found["names"] == ["setosa", "versicolor", "virginica"]
    bogus, device, data, output = found["faults"]
    assert bogus[0] == "ConfigurationError"
    assert bogus[1].startswith("nodes.train: bogus: unknown key")
    assert device[0] == "NotReady"
    assert data == ["DataError", "data: array 'y' is [5], but 'x' has 300 rows"]
    assert output[0] == "UserError"
    assert len(list((tmp_path / "runs").iterdir())) == 2, "what was refused leaves no folder"


INTERRUPTED = """
import asyncio

import nodes


async def main():
    nodes.train("digits", epochs=100_000, output="out", peers=1)


try:
    asyncio.run(main())
finally:
    print("{}", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_good_order_and_then_the_program(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    with Running("interrupted", cwd=tmp_path) as running:
        running.wait_until(lambda: "step" in running.said)
        children = list(running.children().values())
        running.signal(number)
        assert running.process.wait(20) == -number
        assert gone(children, 0.5) == [], "the call ends after its peers"
        said = running.said
    assert "stopping in good order" in said
    assert ("KeyboardInterrupt: run digits-" in said) == (number is signal.SIGINT)
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["status"], result["error"]) == ("stopped", None)
    assert (tmp_path / "out/model.safetensors").exists()
