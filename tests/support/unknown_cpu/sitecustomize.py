"""Make pip's PoCL take this machine's CPU for one that LLVM does not know.

Python imports this at its start where the folder is in PYTHONPATH. LLVM asks the processor itself what
it is, so the name is changed where PoCL keeps it, before the project's code first looks there.
"""

import ctypes
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

WATCHED = "kernels.device.pip_pocl"


class Unknown(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            own_name: Any = module.own_name

            def forget(device: Any) -> str:
                found: str = own_name(device)
                if "PoCL 3.0-rc2" in device.platform.version:
                    field = ctypes.cast(
                        device.int_ptr + module.FIELD, ctypes.POINTER(ctypes.c_char_p)
                    )
                    if field[0] == found.encode():
                        field[0] = b"generic"
                return found

            module.own_name = forget  # type: ignore[attr-defined]

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Unknown())
