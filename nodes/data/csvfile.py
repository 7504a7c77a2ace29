"""Read a person's CSV file, with errors that name the line."""

from __future__ import annotations

import csv
import difflib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.data.config import DataConfig
from nodes.data.dataset import Dataset
from nodes.data.prepare import FLOAT32_MAX, Rows, assemble, fits_float32, split
from nodes.errors import DataError

MOST_CLASSES_COUNTED = 1000


def load_csv(config: DataConfig) -> Dataset:
    """Read ``data.path``, and ``data.test_path`` where it is given.

    Raises DataError, one line with file and line number, where a cell is no finite number, a row
    has another number of columns, or a label is out of range.
    """
    assert config.path is not None
    table = _read(config.path, config)
    coding = None
    if config.task == "classification":
        coding = _Coding(table, config.classes)
        outputs, names = len(coding.names), coding.names
    else:
        outputs, names = 1, ()
    rows = _rows(table, coding)
    if config.test_path is not None:
        other = _read(config.test_path, config)
        if other.columns != table.columns:
            raise DataError(
                f"{other.path}: {other.columns} columns instead of {table.columns}, as many as "
                f"{table.path} has"
            )
        train, test = rows, _rows(other, coding)
    else:
        train, test = split(rows, config.task, config.test)
    return assemble(
        config.path.stem,
        config.task,
        train,
        test,
        outputs=outputs,
        shape=(table.columns - 1,),
        standardise=config.standardise,
        class_names=names,
    )


@dataclass(frozen=True, eq=False)
class _Table:
    path: Path
    columns: int
    label: str
    """What the label's column is called in errors."""
    x: npt.NDArray[np.float64]
    labels: list[str]
    lines: array[int]
    """The number of each row's line in the file, from 1."""

    def at(self, row: int) -> str:
        return f"{self.path}: line {self.lines[row]}"


def _read(path: Path, config: DataConfig) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return _Reader(path, config).read((reader.line_num, row) for row in reader if row)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: check data.path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None


class _Reader:
    """Reads rows one by one; knows the header once the first is seen."""

    def __init__(self, path: Path, config: DataConfig) -> None:
        self._path = path
        self._config = config
        self._names: list[str] | None = None

    def read(self, rows: Iterator[tuple[int, list[str]]]) -> _Table:
        line, first = next(rows, (0, []))
        if not first:
            raise DataError(f"{self._path}: holds no rows")
        columns = len(first)
        if columns < 2:
            raise DataError(
                f"{self._path}: line {line}: only one column: are the values separated by commas?"
            )
        place = self._place_label(first)
        values, labels, lines = array("d"), [], array("q")
        if self._names is None:
            self._take(line, first, place, columns, values)
            labels.append(first[place])
            lines.append(line)
        for line, row in rows:
            self._take(line, row, place, columns, values)
            labels.append(row[place])
            lines.append(line)
        if not labels:
            raise DataError(f"{self._path}: holds a header and no rows")
        x = np.frombuffer(values, np.float64).reshape(len(labels), columns - 1)
        fits = fits_float32(x)
        if not fits.all():
            row_index, column = (int(i) for i in np.argwhere(~fits)[0])
            column += column >= place
            raise DataError(
                f"{self._path}: line {lines[row_index]}: {self._column(column)} is "
                f"{x[row_index, column - (column > place)]!s}, not a finite float32"
            )
        return _Table(self._path, columns, self._column(place), x, labels, lines)

    def _place_label(self, first: Sequence[str]) -> int:
        """Return the label's column; keep the names where the first row is a header."""
        config, names = self._config, [cell.strip() for cell in first]
        if isinstance(config.label, str):
            if config.header is False:
                raise DataError(
                    f"data.label names the column {config.label!r}, but data.header is false: "
                    "give its index, from 0"
                )
            if config.label not in names:
                close = difflib.get_close_matches(config.label, names, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise DataError(f"{self._path}: no column named {config.label!r}{hint}")
            self._names = names
            return names.index(config.label)
        if not -len(first) <= config.label < len(first):
            raise DataError(
                f"{self._path}: has {len(first)} columns, none with the index {config.label} "
                "that data.label names"
            )
        place = config.label % len(first)
        features = [cell for column, cell in enumerate(first) if column != place]
        if config.header is True or (config.header == "auto" and not any(map(_numeric, features))):
            self._names = names
        return place

    def _take(
        self, line: int, row: list[str], place: int, columns: int, values: array[float]
    ) -> None:
        if len(row) != columns:
            raise DataError(f"{self._path}: line {line}: {len(row)} columns instead of {columns}")
        try:
            values.extend(map(float, row[:place]))
            values.extend(map(float, row[place + 1 :]))
        except ValueError:
            bad = next(
                column for column, cell in enumerate(row) if column != place and not _numeric(cell)
            )
            what = repr(row[bad]) if row[bad].strip() else "empty"
            raise DataError(
                f"{self._path}: line {line}: {self._column(bad)} is {what}, not a number"
            ) from None

    def _column(self, column: int) -> str:
        return f"column {self._names[column]!r}" if self._names else f"column {column}"


def _numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _rows(table: _Table, coding: _Coding | None) -> Rows:
    if coding is not None:
        return Rows(table.x, coding.encode(table))
    targets = np.empty((len(table.labels), 1), np.float64)
    for row, cell in enumerate(table.labels):
        if not _numeric(cell) or not abs(float(cell)) <= FLOAT32_MAX:
            raise DataError(f"{table.at(row)}: {table.label} is {cell!r}, not a finite float32")
        targets[row] = float(cell)
    return Rows(table.x, targets.astype(np.float32))


class _Coding:
    """The classes of a label column, numbered in order: numbers first, then text.

    Where the number of classes is given, whole numbers are the classes' own numbers.
    """

    def __init__(self, table: _Table, classes: int | None) -> None:
        keys = {_class(table, row) for row in range(len(table.labels))}
        found = sorted(keys, key=lambda key: (isinstance(key, str), key))
        if classes is not None and all(isinstance(key, int) for key in found):
            found = list(range(classes))
        elif classes is not None and len(found) > classes:
            raise DataError(
                f"{table.path}: {table.label} has {len(found)} distinct values, "
                f"data.classes says {classes}"
            )
        elif classes is None and len(found) > MOST_CLASSES_COUNTED:
            raise DataError(
                f"{table.path}: {table.label} has {len(found)} distinct values: give data.classes "
                'if these are classes, or set data.task = "regression"'
            )
        elif classes is None and len(found) < 2:
            raise DataError(
                f"{table.path}: {table.label} is {table.labels[0]!r} in every row: "
                "is data.label the right column?"
            )
        names = [str(key) for key in found]
        names += [f"class {number}" for number in range(len(names), classes or 0)]
        self.names = tuple(names)
        self._codes = {key: code for code, key in enumerate(found)}

    def encode(self, table: _Table) -> npt.NDArray[np.int32]:
        codes = np.empty(len(table.labels), np.int32)
        for row in range(len(codes)):
            code = self._codes.get(_class(table, row))
            if code is None:
                raise DataError(
                    f"{table.at(row)}: label {table.labels[row].strip()!r} is none of the "
                    f"{len(self.names)} classes ({_listed(self.names)})"
                )
            codes[row] = code
        return codes


def _class(table: _Table, row: int) -> int | str:
    cell = table.labels[row].strip()
    if not cell:
        raise DataError(f"{table.at(row)}: the label is empty")
    try:
        number = float(cell)
    except ValueError:
        return cell
    if not number.is_integer():
        raise DataError(
            f"{table.at(row)}: label {cell} is no class: "
            'set data.task = "regression" to predict numbers'
        )
    return int(number)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{names[0]} to {names[-1]}"
