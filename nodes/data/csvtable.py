"""Read a person's CSV file into numbers, with errors that name the line."""

from __future__ import annotations

import csv
import difflib
import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from nodes.data.prepare import fits_float32
from nodes.errors import DataError

Header = bool | Literal["auto"]


@dataclass(frozen=True)
class Columns:
    """Where a file's label is, by name or index (negative from the end), and whether it has names.

    ``header`` "auto" takes the first line for names where no feature in it is a number.
    """

    label: str | int = -1
    header: Header = "auto"


@dataclass(frozen=True, eq=False)
class Table:
    """A file's features, float64 [rows, features], and its label column as text."""

    path: Path
    columns: int
    label: str
    """What the label's column is called in errors; empty where there is none."""
    x: npt.NDArray[np.float64]
    labels: list[str]
    """One for each row; empty where the file has no label column."""
    lines: array[int]
    """The number of each row's line in the file, from 1."""

    def at(self, row: int) -> str:
        """Name a row in an error."""
        return f"{self.path}: line {self.lines[row]}"


def read_table(path: Path, columns: Columns, features: int | None = None) -> Table:
    """Read a file with a label column.

    Where ``features`` is given, the file must have that many columns beside the label's, or that
    many and no label.

    Raises DataError, one line with file and line number, where a cell is no finite number or a row
    has another number of columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            return _Reader(path, columns, features).read(rows)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not valid CSV: {error}") from None


def numeric(cell: str) -> bool:
    """Say whether a cell's text is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


class _Reader:
    """Reads rows one by one; knows the header once the first is seen."""

    def __init__(self, path: Path, columns: Columns, features: int | None) -> None:
        self._path = path
        self._label = columns.label
        self._header = columns.header
        self._features = features
        self._names: list[str] | None = None

    def read(self, rows: Iterator[tuple[int, list[str]]]) -> Table:
        line, first = next(rows, (0, []))
        if not first:
            raise DataError(f"{self._path}: holds no rows")
        columns = len(first)
        self._check_columns(line, columns)
        bare = columns == self._features
        place = columns if bare else self._place_label(first)
        self._find_names(first, place)
        values, labels, lines = array("d"), [], array("q")
        if self._names is None:
            rows = itertools.chain([(line, first)], rows)
        for line, row in rows:
            self._take(line, row, place, columns, values)
            if not bare:
                labels.append(row[place])
            lines.append(line)
        if not lines:
            raise DataError(f"{self._path}: holds a header and no rows")
        x = np.frombuffer(values, np.float64).reshape(len(lines), columns - (not bare))
        fits = fits_float32(x)
        if not fits.all():
            row_index, column = (int(i) for i in np.argwhere(~fits)[0])
            column += column >= place
            raise DataError(
                f"{self._path}: line {lines[row_index]}: {self._column(column)} is "
                f"{x[row_index, column - (column > place)]!s}, not a finite float32"
            )
        called = "" if bare else self._column(place)
        return Table(self._path, columns, called, x, labels, lines)

    def _check_columns(self, line: int, columns: int) -> None:
        wanted = self._features
        if wanted is None and columns < 2:
            raise DataError(
                f"{self._path}: line {line}: only one column: are the values separated by commas?"
            )
        if wanted is not None and columns not in (wanted, wanted + 1):
            raise DataError(
                f"{self._path}: line {line}: {columns} columns, but the model takes {wanted} "
                "features, with or without a label column"
            )

    def _place_label(self, first: Sequence[str]) -> int:
        """Return the index of the label's column."""
        names = [cell.strip() for cell in first]
        if isinstance(self._label, str):
            if self._header is False:
                raise DataError(
                    f"data.label names the column {self._label!r}, but data.header is false: "
                    "give its index, from 0"
                )
            if self._label not in names:
                close = difflib.get_close_matches(self._label, names, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise DataError(f"{self._path}: no column named {self._label!r}{hint}")
            self._names = names
            return names.index(self._label)
        if not -len(first) <= self._label < len(first):
            raise DataError(
                f"{self._path}: has {len(first)} columns, none with the index {self._label} "
                "that data.label names"
            )
        return self._label % len(first)

    def _find_names(self, first: Sequence[str], place: int) -> None:
        """Keep the columns' names where the first row is a header."""
        features = [cell for column, cell in enumerate(first) if column != place]
        if self._header is True or (self._header == "auto" and not any(map(numeric, features))):
            self._names = [cell.strip() for cell in first]

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
                column for column, cell in enumerate(row) if column != place and not numeric(cell)
            )
            what = repr(row[bad]) if row[bad].strip() else "empty"
            raise DataError(
                f"{self._path}: line {line}: {self._column(bad)} is {what}, not a number"
            ) from None

    def _column(self, column: int) -> str:
        return f"column {self._names[column]!r}" if self._names else f"column {column}"
