"""What of a recipe may change where a run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodes.recipe import load_recipe
from nodes.training.resume import recipe_of
from paramserver.errors import ConfigurationError


def stored(**changes: Any) -> Any:
    """A checkpoint of the digits recipe as an earlier version wrote it down."""
    recipe = load_recipe("digits", environ={}).config.dump()
    for layer in recipe["model"]["layers"]:
        del layer["type"]
    del recipe["model"]["input_shape"], recipe["device"]["memory"], recipe["device"]["tune"]
    recipe["train"].update(changes)
    return SimpleNamespace(spec=SimpleNamespace(recipe=recipe), folder=Path("somewhere"))


def test_keys_that_are_new_since_then_have_their_defaults() -> None:
    recipe = recipe_of(stored(), ["train.epochs=9"], {})
    assert recipe.train.epochs == 9
    assert recipe.model.layers == load_recipe("digits").config.model.layers


def test_what_trains_may_not_change() -> None:
    with pytest.raises(ConfigurationError, match=r"^train\.rate: cannot change in a run that"):
        recipe_of(stored(), ["train.rate=0.5"], {})
    with pytest.raises(ConfigurationError, match=r"model\.layers: cannot change"):
        recipe_of(stored(), ["model.layers.0.units=3"], {})
