"""What classes are called, and which number each has."""

from __future__ import annotations

from collections.abc import Sequence

Key = int | str
"""A class as a file names it: a whole number, or a text that is no number."""


def key_of(cell: str) -> Key:
    """Return the class that a file's text names: "3", "3.0" and " 3" are one.

    Raises ValueError where it is no class, a number with a fraction.
    """
    cell = cell.strip()
    try:
        number = float(cell)
    except ValueError:
        return cell
    if not number.is_integer():
        raise ValueError(f"{cell} is no whole number")
    return int(number)


def name_key(name: str) -> Key:
    """Return a class's name as a file's text would name it."""
    try:
        return key_of(name)
    except ValueError:
        return name


class ClassCodes:
    """The number of each class by its name.

    Where ``by_number``, and no name is a number, a class may also be given by its number.
    """

    def __init__(self, names: Sequence[str], *, by_number: bool = False) -> None:
        self.names = tuple(names)
        self._codes: dict[Key, int] = {name_key(name): code for code, name in enumerate(names)}
        if by_number and all(isinstance(key, str) for key in self._codes):
            self._codes |= {code: code for code in range(len(names))}

    def __repr__(self) -> str:
        return f"<ClassCodes {self.listed}>"

    @property
    def listed(self) -> str:
        """The classes for an error's text."""
        names = self.names
        return ", ".join(names) if len(names) <= 5 else f"{names[0]} to {names[-1]}"

    def find(self, key: Key) -> int | None:
        """Return a class's number, None where there is no such class."""
        return self._codes.get(key)
