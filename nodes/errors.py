"""Errors that the learner adds to the tree of `paramserver.errors`.

UserError                 exit 2
├── DataError             a data file is missing, malformed or does not fit
└── ModelError            a model does not fit its data
"""

from __future__ import annotations

from paramserver.errors import UserError


class DataError(UserError):
    """A data file is missing, malformed, or does not fit; the text names file and line."""


class ModelError(UserError):
    """A model does not fit its data (the text names the key to change), or its file is damaged."""
