"""The recipe: one training job's whole configuration."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field, model_validator

from nodes.data.config import DataConfig
from nodes.models.config import ModelConfig
from paramserver.config import (
    CheckpointConfig,
    ClusterConfig,
    DeviceConfig,
    EarlyStoppingConfig,
    Section,
    StatusConfig,
    TrainConfig,
    expanded,
    fault,
)
from paramserver.configfile import DEFAULT, Loaded, load, parse_document, read_document
from paramserver.errors import ConfigurationError
from paramserver.spec import Mode
from paramserver.types import Consistency

ALIASES = {"PARAMSERVER_DATA": "data.root"}
SUFFIXES = (".toml", ".json")
NOT_BUILT = ("sandblaster",)
WORDS: dict[str, tuple[Mode, Consistency]] = {
    "hogwild": ("gradient", "asp"),
    "iterative_reduce": ("average", "bsp"),
}
MODES = (*get_args(Mode), *WORDS)


def _mode(value: object) -> object:
    if value in NOT_BUILT:
        raise ValueError(f'"{value}" is not built yet: use {", ".join(MODES)}')
    if value not in MODES:
        raise ValueError(f"must be one of {', '.join(MODES)}, not {value!r}")
    return value


class Recipe(Section):
    """Everything that one training job is told, as `load_recipe` reads it.

    ``mode`` says what workers push: "gradient", "delta" (the difference after ``train.period`` local
    steps) or "average" (the weights after them, in bsp). "hogwild" is a word for gradient with asp,
    "iterative_reduce" one for average with bsp. ``staleness`` is the bound of ssp.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "recipe"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    consistency: Consistency = "bsp"
    staleness: Annotated[int, Field(ge=0, le=1_000_000)] = 4
    mode: Annotated[Mode, BeforeValidator(_mode)] = "gradient"
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = Field(default_factory=TrainConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    device: DeviceConfig = Field(default_factory=DeviceConfig)
    status: StatusConfig = Field(default_factory=StatusConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    early_stopping: EarlyStoppingConfig = Field(default_factory=EarlyStoppingConfig)

    @model_validator(mode="before")
    @classmethod
    def _words(cls, values: Any) -> Any:
        """Replace the words that stand for a mode and a consistency."""
        if not isinstance(values, dict):
            return values
        word = values.get("mode")
        if not isinstance(word, str) or word not in WORDS:
            return values
        mode, consistency = WORDS[word]
        if values.get("consistency", consistency) != consistency:
            raise fault(
                "consistency",
                f'mode "{word}" needs "{consistency}", not "{values["consistency"]}": set it so, or '
                "leave it out",
            )
        return {**values, "mode": mode, "consistency": consistency}

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.mode == "average" and self.consistency != "bsp":
            raise fault(
                "consistency",
                f'mode "average" needs "bsp", not "{self.consistency}": a mean takes every part',
            )
        if self.mode == "gradient" and self.train.period != 1:
            raise fault(
                "train.period", 'must be 1 with mode "gradient", which pushes after each step'
            )
        return self

    def dump(self) -> dict[str, Any]:
        """Return the recipe as JSON-able values, which `Recipe.model_validate` takes again."""
        return self.model_dump(mode="json")


def shipped() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("nodes") / "recipes"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_recipe(
    wanted: str | Path | Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded[Recipe]:
    """Load a shipped recipe by name, a TOML or JSON file, or a dict like one, as the lowest layer.

    Environment and command line go over it.

    Paths of data and secret become absolute, as seen from the current directory, because peers may
    run in another.

    Args:
        wanted: a shipped name, a path (with a suffix or a separator, or that exists), or a dict.
        sets: ``key=value`` texts.
        flags: typed values by dotted key; None means not given.
        environ: the environment, the process's own unless given.

    Raises:
        ConfigurationError: one line for each fault.
    """
    if isinstance(wanted, Mapping):
        name, document, stem = "recipe", dict(wanted), "recipe"
    else:
        name, document, stem = _document(str(wanted))
    loaded = load(
        Recipe,
        document={"name": stem, **document},
        name=name,
        environ=environ,
        aliases=ALIASES,
        sets=sets,
        flags=flags,
    )
    recipe, provenance = loaded
    if provenance["consistency"] == DEFAULT and recipe.consistency == "asp":
        provenance["consistency"] = provenance["mode"]
    if "name" not in document:
        provenance["name"] = DEFAULT
    return Loaded(absolute(recipe), provenance)


def _document(wanted: str) -> tuple[str, dict[str, Any], str]:
    """Return how errors name the recipe, its content, and its own name unless it gives one."""
    try:
        path = expanded(wanted)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if wanted in shipped():
        data = (resources.files("nodes") / "recipes" / f"{wanted}.toml").read_bytes()
        return f"{wanted}.toml", parse_document(data, f"{wanted}.toml"), wanted
    if path.suffix.lower() in SUFFIXES or "/" in wanted or path.exists():
        stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem)
        return str(path), read_document(path), stem[:64] or "recipe"
    close = difflib.get_close_matches(wanted, shipped(), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigurationError(
        f"unknown recipe {wanted!r}{hint}: use {', '.join(shipped())}, or the path of a .toml or "
        ".json file"
    )


def absolute(recipe: Recipe) -> Recipe:
    """Return a recipe whose paths are absolute, because peers may run in another folder."""

    def resolved(section: Section, keys: tuple[str, ...]) -> dict[str, Path]:
        paths = {key: getattr(section, key) for key in keys}
        return {key: path.absolute() for key, path in paths.items() if path is not None}

    data = recipe.data.model_copy(
        update=resolved(recipe.data, ("path", "root", "test_path", "validation_path"))
    )
    meets = recipe.cluster.zookeeper
    files = resolved(meets, ("auth_file", "ca_file", "cert_file", "key_file"))
    cluster = recipe.cluster.model_copy(
        update={
            **resolved(recipe.cluster, ("secret_file",)),
            "zookeeper": meets.model_copy(update=files),
        }
    )
    return recipe.model_copy(update={"data": data, "cluster": cluster})
