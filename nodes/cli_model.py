"""The commands on a trained model: ``node evaluate`` and ``node predict``."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from pydantic import ValidationError

from kernels.device.choice import choose
from kernels.engine import open_engine
from nodes.data import DataConfig, Dataset, load_dataset
from nodes.data.csvtable import Columns
from nodes.data.rows import read_features, read_labelled
from nodes.errors import DataError
from nodes.metrics import measure
from nodes.models.forward import EngineForward, Forward
from nodes.trained import TrainedModel, load
from nodes.training.result import write_whole
from paramserver.console import say
from paramserver.errors import UserError
from paramserver.phrases import counted

Floats = npt.NDArray[np.float32]

MOST_SHOWN = 20
"""The most classes whose confusion is printed for a person."""
LINES = 1000

ModelArgument = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A run's or checkpoint's folder, or a .safetensors file."),
]
Label = Annotated[
    str | None,
    typer.Option(help="A CSV's label column, by name or index; unless given, the recipe's."),
]
Header = Annotated[
    bool | None,
    typer.Option(help="Whether a CSV's first line has names; unless given, as in the recipe."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu, an index, a name, or numpy.")]
HostOrDevice = Annotated[
    str,
    typer.Option(help="numpy (in float64), auto, cpu, gpu, an index or a name (in float32)."),
]


def evaluate(
    model: ModelArgument,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="A .csv or .npz file, IDX images or their folder; else the recipe's test data.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    label: Label = None,
    header: Header = None,
    device: Device = "auto",
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="PARAMSERVER_DATA", help="This machine's folder of data sets."),
    ] = None,
) -> None:
    """Measure a trained model on labelled data."""
    trained = load(model)
    rows = own = None
    if data is not None:
        rows = read_labelled(data, trained.schema, _columns(trained, label, header))
        answers, what = rows.y, str(data)
    else:
        own = _own_data(trained, data_root)
        answers, what = own.test_y, f"the test rows of {own.name}"
    with _opened(device, trained) as (forward, name):
        say(f"evaluating {trained!r} on {counted(len(answers), 'row')}: {what}")
        if rows is not None:
            outputs = trained.outputs(rows.x, forward)
        else:
            assert own is not None
            x, y = own.buffers(len(answers))
            own.test_batch(0, len(answers), x, y)
            outputs = trained.run(x, forward)
    metrics = measure(trained.schema, outputs, answers)
    if json_:
        about = {
            "model": str(trained.path),
            "data": str(data) if data is not None else None,
            "device": name,
            "task": trained.schema.task,
            "rows": len(answers),
        }
        print(json.dumps(about | metrics, allow_nan=False), flush=True)
    else:
        _tell(len(answers), metrics)


def predict(
    model: ModelArgument,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A .csv, .npz or .npy file, or IDX images.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .csv or .npy file, instead of CSV to stdout."),
    ] = None,
    label: Label = None,
    header: Header = None,
    device: HostOrDevice = "numpy",
) -> None:
    """Predict with a trained model: classes and their probabilities, or numbers."""
    if output is not None and output.suffix.lower() not in (".csv", ".npy"):
        raise UserError(f"--output {output}: must end in .csv or .npy")
    if output is not None and not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    trained = load(model)
    x = read_features(data, trained.schema, _columns(trained, label, header))
    with _opened(device, trained) as (forward, _):
        say(f"predicting {counted(len(x), 'row')} of {data} with {trained!r}")
        found = trained.finish(trained.outputs(x, forward))
    if output is None:
        for text in _lines(trained, found):
            print(text, end="")
        print(end="", flush=True)
    elif output.suffix.lower() == ".csv":
        write_whole(output, "".join(_lines(trained, found)).encode())
    else:
        file = io.BytesIO()
        np.save(file, found)
        write_whole(output, file.getvalue())


@contextlib.contextmanager
def _opened(select: str, trained: TrainedModel) -> Iterator[tuple[Forward | None, str]]:
    """Yield what computes on a device, None for the host's numpy, and the device's name."""
    info = choose(select)
    say(f"device: {info}")
    if info.type == "numpy":
        yield None, info.name
        return
    engine = open_engine(str(info.index))
    try:
        yield EngineForward(engine, trained.model, trained.weights), info.name
    finally:
        engine.close()


def _columns(trained: TrainedModel, label: str | None, header: bool | None) -> Columns:
    """Return where a CSV's label is and whether it has names: as given, else as in training."""
    recipe = trained.recipe.get("data")
    place, names = Columns.label, Columns.header
    if isinstance(recipe, dict):
        place, names = recipe.get("label", place), recipe.get("header", names)
    if label is not None:
        place = int(label) if label.removeprefix("-").isdecimal() else label
    return Columns(place, header if header is not None else names)


def _own_data(trained: TrainedModel, root: Path | None) -> Dataset:
    """Read the data that the model's recipe names.

    Raises:
        DataError: it has no test rows, or is other than what the model was trained on.
    """
    try:
        config = DataConfig.model_validate(trained.recipe.get("data", {}))
    except ValidationError:
        raise DataError(
            f"{trained.path}: its recipe names no data that this version reads: give DATA"
        ) from None
    if root is not None:
        config = config.model_copy(update={"root": root})
    dataset = load_dataset(config)
    if dataset.schema != trained.schema:
        raise DataError(
            f"{trained.path}: {dataset.name} is no more what it was trained on (its features, "
            "their scale or its classes differ): give DATA"
        )
    if not len(dataset.test_x):
        raise DataError(f"{trained.path}: its recipe holds no test rows out: give DATA")
    return dataset


def _lines(trained: TrainedModel, found: Floats) -> Iterator[str]:
    """Yield predictions as CSV, in pieces; nine digits tell every float32 apart."""
    piece = io.StringIO()
    writer = csv.writer(piece, lineterminator="\n")
    names = trained.class_names
    if names:
        writer.writerow(["class", *(f"p_{name}" for name in names)])
    elif found.shape[1] == 1:
        writer.writerow(["y"])
    else:
        writer.writerow([f"y_{target}" for target in range(found.shape[1])])
    for start in range(0, len(found), LINES):
        for row in found[start : start + LINES]:
            numbers = [f"{value:.9g}" for value in row.tolist()]
            writer.writerow([names[int(row.argmax())], *numbers] if names else numbers)
        yield piece.getvalue()
        piece.seek(0)
        piece.truncate()


def _tell(rows: int, metrics: dict[str, Any]) -> None:
    """Print metrics for a person."""
    if "mse" in metrics:
        r2 = f"{metrics['r2']:.4f}" if metrics["r2"] is not None else "none"
        print(
            f"rows {rows:,}  mse {metrics['mse']:.6g}  mae {metrics['mae']:.6g}  r2 {r2}",
            flush=True,
        )
        return
    lines = [f"rows {rows:,}  accuracy {metrics['accuracy']:.4f}  loss {metrics['loss']:.4f}"]
    classes = metrics["classes"]
    width = max(len("class"), *(len(one["name"]) for one in classes))
    lines.append(f"{'class':<{width}}     rows  precision  recall      f1")
    lines += [
        f"{one['name']:<{width}}  {one['rows']:>7,}  {one['precision']:>9.4f}  {one['recall']:>6.4f}"
        f"  {one['f1']:>6.4f}"
        for one in classes
    ]
    if len(classes) <= MOST_SHOWN:
        cell = max(len(str(rows)), *(len(one["name"]) for one in classes)) + 1
        lines.append("true class, by what it was taken for:")
        lines.append(" " * width + "".join(f"{one['name']:>{cell}}" for one in classes))
        lines += [
            f"{one['name']:<{width}}" + "".join(f"{count:>{cell}}" for count in counts)
            for one, counts in zip(classes, metrics["confusion"], strict=True)
        ]
    print("\n".join(lines), flush=True)
