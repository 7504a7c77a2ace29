"""What the processes of a comparison find in their environment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benching import environments
from benching.processes import begun, side
from benching.suites import Settings

from nodes.training.peers import environment
from tests.support.process import ROOT

HELD_BACK = {
    "OPENBLAS_CORETYPE": "Haswell",
    "GOTO_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "KMP_AFFINITY": "none",
    "GOMP_CPU_AFFINITY": "0",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "default",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "POCL_DEVICES": "none",
    "OCL_ICD_VENDORS": "/nowhere",
    "PYOPENCL_CTX": "0",
    "CL_CONFIG_USE_VECTORIZER": "false",
}


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def test_the_other_side_has_nothing_that_holds_it_back() -> None:
    others = {"PATH": "/bin", "HOME": "/root", "CLICOLOR": "1", "LANG": "C"}
    assert environments.others({**others, **HELD_BACK}) == others


@pytest.mark.usefixtures("no_orphans")
def test_processes_of_both_sides_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HELD_BACK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'scripts'}:{ROOT}")

    async def found(*, ours: bool) -> dict[str, str]:
        settings = Settings(device="numpy", cores=(0,), quick=True)
        async with side("rules", "numpy", settings, ours=ours) as one:
            await begun(one)
            return environment_of(one.pid)

    other = asyncio.run(found(ours=False))
    assert not [name for name in other if name.startswith(environments.HOLDS_BACK)]
    ours = asyncio.run(found(ours=True))
    assert ours.items() >= {**HELD_BACK, **environment(1)}.items()
