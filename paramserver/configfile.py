"""Configuration in layers: command line over environment over file over default.

`load` merges the layers, validates once, and remembers for every value where it came from. What is
wrong comes back as one `ConfigurationError` with one line for each fault, each naming its source:

    recipe.toml: model.layers.2.units: must be positive

Beside the command line itself this is the only module that reads the process environment.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ValidationError

from paramserver.errors import ConfigurationError

PREFIX = "PARAMSERVER_"
NESTING = "__"
COMMAND_LINE = "command line"
DEFAULT = "default"
LARGEST_FILE = 4 << 20

Key = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


class Loaded(NamedTuple, Generic[Model]):
    """A validated configuration, and for each dotted key where its value came from."""

    config: Model
    provenance: dict[str, str]


class Source(NamedTuple):
    """Where a value came from: how ``show`` names it, and what opens the line of an error."""

    shown: str
    blamed: str


def dotted(key: Key) -> str:
    """Return a key as a person writes it: ``model.layers.2.units``."""
    return ".".join(str(part) for part in key)


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON file (by its suffix, TOML unless ``.json``) into a dict.

    Raises ConfigurationError with one line where it is missing, unreadable or malformed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > LARGEST_FILE:
        raise ConfigurationError(f"{path}: over {LARGEST_FILE >> 20} MiB: is this a configuration?")
    return parse_document(data, str(path), json_text=path.suffix.lower() == ".json")


def parse_document(data: bytes, name: str, *, json_text: bool = False) -> dict[str, Any]:
    """Parse TOML, or JSON if ``json_text``; errors name the document ``name``."""
    kind = "JSON" if json_text else "TOML"
    try:
        text = data.decode()
        document = json.loads(text) if json_text else tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name}: not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise ConfigurationError(f"{name}: nested too deeply") from None
    except ValueError as error:  # both parsers' own errors are ValueErrors
        raise ConfigurationError(f"{name}: not valid {kind}: {error}") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{name}: not valid {kind}: the whole must be a table of keys")
    return document


def load(
    model: type[Model],
    *,
    document: Mapping[str, Any] | None = None,
    name: str = "configuration",
    environ: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Loaded[Model]:
    """Merge the layers and validate them as ``model``.

    Args:
        model: what to validate; its fields that are models are the sections.
        document: the file's content, as from `read_document`; ``name`` is how errors name it.
        environ: the environment, the process's own unless given. ``PARAMSERVER_TRAIN__BATCH_SIZE``
            is ``train.batch_size``. A variable that is near to no key is another program's.
        aliases: further variables, each with the dotted key it sets.
        sets: ``key=value`` texts of the command line, such as ``train.rate=0.05``.
        flags: typed values of the command line by dotted key; None means not given.

    Raises:
        ConfigurationError: one line for each fault.
    """
    layers = _Layers(model)
    if document is not None:
        layers.add_document(document, name)
    layers.add_environment(os.environ if environ is None else environ, aliases or {})
    for text in sets:
        layers.add_text(text)
    for key, value in (flags or {}).items():
        if value is not None:
            layers.put(tuple(key.split(".")), value, Source(COMMAND_LINE, COMMAND_LINE))
    if layers.faults:
        raise _refusal(layers.faults)
    return layers.validate(name)


def show(loaded: Loaded[Any]) -> list[tuple[str, str, str]]:
    """Return (dotted key, value as text, where it came from) for every value, in order."""
    rows = []
    for key, value in leaves(loaded.config.model_dump(mode="json")):
        text = json.dumps(value) if value is not None else "none"
        rows.append((dotted(key), text, loaded.provenance.get(dotted(key), DEFAULT)))
    return rows


def leaves(value: object, key: Key = ()) -> Iterator[tuple[Key, object]]:
    """Yield each (key, value) of a nested document; lists of plain values are one value."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*key, str(name)))
    elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*key, index))
    else:
        yield key, value


def _refusal(lines: Sequence[str]) -> ConfigurationError:
    return ConfigurationError("\n".join(lines), lines=list(lines))


class _Layers:
    """The merged document, and where each of its leaves came from; later layers win."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._merged: dict[str, Any] = {}
        self._sources: dict[Key, Source] = {}
        self.faults: list[str] = []

    def add_document(self, document: Mapping[str, Any], name: str) -> None:
        self._merged = json.loads(json.dumps(document, default=str))
        for key, _ in leaves(self._merged):
            self._sources[key] = Source(name, f"{name}: {dotted(key)}")

    def add_environment(self, environ: Mapping[str, str], aliases: Mapping[str, str]) -> None:
        for variable, text in sorted(environ.items()):
            if variable in aliases:
                parts = tuple(aliases[variable].split("."))
            elif variable.startswith(PREFIX):
                parts = tuple(variable[len(PREFIX) :].lower().split(NESTING))
                if not _near(self._model, parts[0]):
                    continue
            else:
                continue
            if not text:
                continue
            source = Source(f"environment {variable}", variable)
            self._put_text(parts, text, source)

    def add_text(self, text: str) -> None:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            self.faults.append(f"--set {text}: write it as key=value, such as train.epochs=3")
            return
        key = key.strip()
        self._put_text(tuple(key.split(".")), value.strip(), Source(COMMAND_LINE, f"--set {key}"))

    def _put_text(self, parts: tuple[str, ...], text: str, source: Source) -> None:
        key: Key = tuple(int(part) if part.isdecimal() else part for part in parts)
        self.put(key, parse_text(text, _annotation(self._model, key)), source)

    def put(self, key: Key, value: object, source: Source) -> None:
        """Set one value, making the tables above it; a list's element must exist already."""
        target: Any = self._merged
        for depth, part in enumerate(key[:-1]):
            if isinstance(target, list):
                target = self._element(target, key, depth, source)
                if target is None:
                    return
                continue
            following = target.get(part) if isinstance(target, dict) else None
            if not isinstance(following, dict | list):
                following = {}
                target[part] = following
                self._sources.pop(key[: depth + 1], None)
            target = following
        if isinstance(target, list):
            if self._element(target, key, len(key) - 1, source) is None:
                return
            target[int(key[-1])] = value
        else:
            target[key[-1]] = value
        for other in [known for known in self._sources if known[: len(key)] == key]:
            del self._sources[other]
        for inner, _ in leaves(value, key):
            below = "".join(f".{part}" for part in inner[len(key) :])
            self._sources[inner] = source._replace(blamed=f"{source.blamed}{below}")

    def _element(self, target: list[Any], key: Key, depth: int, source: Source) -> Any:
        part = key[depth]
        if isinstance(part, int) and part < len(target):
            return target[part]
        line = (
            f"{source.blamed}: {dotted(key[:depth])} has only the elements 0 to {len(target) - 1}"
        )
        self.faults.append(line)
        return None

    def validate(self, name: str) -> Loaded[Any]:
        try:
            config = self._model.model_validate(self._merged)
        except ValidationError as error:
            raise _refusal([self._line(dict(fault), name) for fault in error.errors()]) from None
        provenance = {dotted(key): source.shown for key, source in self._sources.items()}
        for key, _ in leaves(config.model_dump(mode="json")):
            # An alias or a rewritten value lies under a key that a person gave: that is its source.
            given = next(
                (
                    self._sources[key[:n]]
                    for n in range(len(key), 0, -1)
                    if key[:n] in self._sources
                ),
                None,
            )
            provenance[dotted(key)] = given.shown if given is not None else DEFAULT
        return Loaded(config, provenance)

    def _line(self, fault: dict[str, Any], name: str) -> str:
        key: Key = tuple(fault["loc"])
        context = fault.get("ctx", {})
        if fault["type"] == "key_fault":
            key = (*key, *context["key"].split("."))
        opening = self._opening(key, name)
        return f"{opening}: {self._explain(fault, key, context)}"

    def _opening(self, key: Key, name: str) -> str:
        """Name source and key of a fault; a section takes the source of what was given in it."""
        source = self._sources.get(key)
        if source is None:
            for length in range(len(key), 0, -1):
                below = [s for known, s in self._sources.items() if known[:length] == key[:length]]
                if below:
                    source = below[-1]
                    break
        shown = source.shown if source is not None else name
        if source is not None and self._sources.get(key) is source and source.blamed != shown:
            return source.blamed
        return f"{shown}: {dotted(key)}" if key else shown

    def _explain(self, fault: dict[str, Any], key: Key, context: Mapping[str, Any]) -> str:
        given = fault.get("input")
        kind = fault["type"]
        if kind == "extra_forbidden":
            return "unknown key" + _suggestion(str(key[-1]), _names(self._model, key[:-1]))
        if kind == "literal_error":
            choices = [str(choice) for choice in _choices(_annotation(self._model, key))]
            listed = ", ".join(choices) or context.get("expected", "")
            return f"must be one of {listed}, not {_short(given)}"
        if kind in ("value_error", "key_fault"):
            return str(context.get("error") or context.get("text"))
        if kind == "missing":
            return "missing"
        if kind in _LIMITS:
            return _limit(kind, context) + f", not {_short(given)}"
        wanted = _WANTED.get(kind)
        return f"must be {wanted}, not {_short(given)}" if wanted else str(fault["msg"])


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "model_type": "a table of keys",
    "dict_type": "a table of keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_too_short": "text that is not empty",
    "too_short": "a longer list",
    "too_long": "a shorter list",
    "string_pattern_mismatch": "made of letters, digits, dots, dashes and underlines",
}

_LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def _limit(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "greater_than":
        return "must be positive" if context["gt"] == 0 else f"must be over {context['gt']}"
    if kind == "greater_than_equal":
        return "must not be negative" if context["ge"] == 0 else f"must be at least {context['ge']}"
    if kind == "less_than":
        return f"must be below {context['lt']}"
    return f"must be at most {context['le']}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (known: {', '.join(known)})" if known and len(known) <= 20 else ""


# What a model's fields expect, found by key


def _strip(annotation: Any) -> list[Any]:
    """Return the alternatives of an annotation, without Annotated and without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _strip(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _strip(part)]
    return [] if annotation is type(None) else [annotation]


def _inner(annotation: Any, part: str | int) -> Any:
    for kind in _strip(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            if field is not None:
                return field.annotation
        elif get_origin(kind) in (list, tuple) and isinstance(part, int):
            return get_args(kind)[0]
    return None


def _annotation(model: type[BaseModel], key: Key) -> Any:
    """Return the annotation of the field at ``key``, None where there is none."""
    found: Any = model
    for part in key:
        found = _inner(found, part)
    return found


def _names(model: type[BaseModel], key: Key) -> list[str]:
    for kind in _strip(_annotation(model, key)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return list(kind.model_fields)
    return []


def _near(model: type[BaseModel], word: str) -> bool:
    names = list(model.model_fields)
    return word in names or bool(difflib.get_close_matches(word, names, n=1, cutoff=0.75))


def _choices(annotation: Any) -> list[Any]:
    return [
        choice
        for kind in _strip(annotation)
        if get_origin(kind) is Literal
        for choice in get_args(kind)
    ]


def _only_text(annotation: Any) -> bool:
    """Say whether a field takes nothing but text, so that a number is to stay text."""
    kinds = _strip(annotation)
    return bool(kinds) and all(
        kind in (str, Path)
        or (get_origin(kind) is Literal and all(isinstance(c, str) for c in get_args(kind)))
        for kind in kinds
    )


def parse_text(text: str, annotation: Any = None) -> object:
    """Read a value that a person wrote as text for a field of that type.

    Text stays text where the field takes only text; else it is read as a TOML value, and stays text
    where it is none, for the validation to refuse.
    """
    if annotation is not None and _only_text(annotation):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, KeyError, RecursionError):
        pass
    try:
        return float(text)
    except ValueError:
        return text
