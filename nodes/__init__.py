"""The learner: models, data and training on a parameter server."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodes.trained import TrainedModel, load
    from nodes.training.library import Trained, train

__all__ = ["Trained", "TrainedModel", "load", "train"]

_PLACES = {
    "Trained": "nodes.training.library",
    "TrainedModel": "nodes.trained",
    "load": "nodes.trained",
    "train": "nodes.training.library",
}


def __getattr__(name: str) -> Any:
    """Load the library's door only when it is used: importing a part stays quick."""
    if name not in _PLACES:
        raise AttributeError(f"module 'nodes' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
