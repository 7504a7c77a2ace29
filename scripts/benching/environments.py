"""What the processes of a comparison find in their environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nodes.training.peers import environment

HOLDS_BACK = (
    *("OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "VECLIB_", "NVPL_", "NPY_", "NUMEXPR_"),
    *("OMP_", "KMP_", "GOMP_", "ONEDNN_", "DNNL_"),
    *("ATEN_", "PYTORCH_", "TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "XLA_", "JAX_"),
    *("POCL_", "OCL_", "PYOPENCL_", "CL_"),
)
"""How the names begin of variables by which a library of numerics takes fewer threads, older
instructions or another way than it would by itself."""


def ours(threads: int) -> dict[str, str]:
    """Return the environment of our side: what `node train` gives a peer with so many cores."""
    return {**os.environ, **environment(threads)}


def others(found: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of the other side: ``found`` without what would hold it back."""
    return {name: value for name, value in found.items() if not name.startswith(HOLDS_BACK)}
