"""A learner in float64: what float32 is measured by."""

from nodes.models import Model
from nodes.training.learner import Learner
from tests.support.float64 import Float64Engine


def exact_learner(which: Model, rows: int) -> Learner:
    """Make a learner in float64, its sums of losses too."""
    return Learner(Float64Engine(), which, rows)
