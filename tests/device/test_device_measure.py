import pytest

from kernels import measure as measuring
from kernels.engine import Engine


@pytest.mark.heavy
def test_every_family_has_a_figure(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.001)
    monkeypatch.setattr(measuring, "PRODUCTS", ((16, 16, 16),))
    figures = list(measuring.measure(engine))
    assert {figure.family for figure in figures} == {
        "launch",
        "matmul",
        "elementwise",
        "loss",
        "rule",
    }
    assert all(figure.value > 0 for figure in figures)
    assert str(figures[0]).startswith("launch pipelined: ")
