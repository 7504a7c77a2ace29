"""Kernels compute in single precision: some devices have no other."""

import re
from importlib.resources import files

import pytest

SOURCES = sorted(path.name for path in (files("kernels") / "cl").iterdir())


@pytest.mark.parametrize("name", SOURCES)
def test_no_kernel_asks_for_double_precision(name: str) -> None:
    text = (files("kernels") / "cl" / name).read_text(encoding="utf-8")
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    assert not re.search(r"\bdouble", code)
    # Without its `f` a number is a double, and all that is computed with it.
    numbers = re.findall(r"(?<![\w.])(?:\d+\.\d*|\.\d+|\d+(?=e[-+]?\d))(?:e[-+]?\d+)?f?", code)
    assert [number for number in numbers if not number.endswith("f")] == []
