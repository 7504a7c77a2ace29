"""The recipe's ``data`` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from paramserver.config import FilePath, Fraction, Section, fault

Source = Literal["digits", "iris", "mnist", "csv", "npz"]
Task = Literal["classification", "regression"]

SUFFIXES: dict[str, Source] = {".csv": "csv", ".npz": "npz"}


def _label(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"must be a column's name or its index from 0, not {value!r}")
    return value


def _header(value: object) -> object:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f'must be true, false or "auto", not {value!r}')
    return value


class DataConfig(Section):
    """What to train on.

    ``source`` is one of the sets that are known by name, or "csv" or "npz", by ``path``'s suffix
    unless given. ``path`` is a person's own file, for "mnist" the folder of its four files.
    ``root`` is a folder with data sets by name, as the variable PARAMSERVER_DATA names it.

    For files: ``label`` is the label's column by name or index (negative from the end), ``header``
    whether a CSV's first line names the columns, ``classes`` how many there are (counted unless
    given), ``test_path`` a file of test rows, or ``test`` the share of rows to hold out. Of the rows
    left to train on, ``validation`` is the share to watch training by (none unless given), or
    ``validation_path`` a file of such rows, for "mnist" a folder or file of images with its labels.
    ``standardise`` brings each feature to mean 0 and variance 1 over the training rows; pixels
    (8-bit features) are divided by 255 instead.
    """

    source: Source | None = None
    path: FilePath | None = None
    root: FilePath | None = None
    label: Annotated[str | int, BeforeValidator(_label)] = -1
    header: Annotated[bool | Literal["auto"], BeforeValidator(_header)] = "auto"
    classes: Annotated[int, Field(gt=1, le=65536)] | None = None
    test: Fraction = 0.2
    test_path: FilePath | None = None
    validation: Fraction = 0.0
    validation_path: FilePath | None = None
    standardise: bool = True
    task: Task = "classification"

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.path is None:
            if self.source is None:
                raise fault("path", "missing: name a .csv or .npz file, or give data.source")
            if self.source in SUFFIXES.values():
                raise fault("path", f'missing: data.source "{self.source}" reads a file')
        elif self.source is None and self.path.suffix.lower() not in SUFFIXES:
            raise fault(
                "path", f"{self.path.name} is neither .csv nor .npz: give data.source to say what"
            )
        elif self.source in ("digits", "iris"):
            raise fault(
                "path",
                f"{self.source} comes with the package and is read from no file: "
                'set data.source to "csv" or "npz" for one of your own',
            )
        if self.test_path is not None and self.kind not in SUFFIXES.values():
            raise fault("test_path", f"{self.kind} has its own test rows")
        if self.validation_path is not None:
            if self.validation:
                raise fault("validation", "give either validation or validation_path, not both")
            if self.kind in ("digits", "iris"):
                raise fault(
                    "validation_path",
                    f"{self.kind} comes with the package: set data.validation to hold out rows",
                )
        if self.task == "regression":
            if self.kind not in SUFFIXES.values():
                raise fault("task", f"{self.kind} is for classification")
            if self.classes is not None:
                raise fault("classes", "must be left out where data.task is regression")
        return self

    @property
    def kind(self) -> Source:
        """Return the source, by the path's suffix unless it is given."""
        if self.source is not None:
            return self.source
        assert self.path is not None  # the validator has seen to it
        return SUFFIXES[self.path.suffix.lower()]
