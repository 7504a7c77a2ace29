"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 worker, 2 workers, 1,200 rows; ``plural`` if not by -s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
