import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Strict

from paramserver.config import PeerConfig, Section
from paramserver.configfile import Loaded, load, parse_document, parse_text, read_document, show
from paramserver.errors import ConfigurationError


class Layer(Section):
    units: int
    kind: str = "dense"


class Whole(PeerConfig):
    layers: Annotated[tuple[Layer, ...], Strict(False)] = ()
    size: int = 1
    label: str | int = 0


def lines(**layers: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(Whole, **{"environ": {}, "name": "my.toml", **layers})
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == caught.value.detail["lines"]
    found: list[str] = caught.value.detail["lines"]
    return found


def loaded(**layers: Any) -> Loaded[Whole]:
    return load(Whole, **{"environ": {}, "name": "my.toml", **layers})


def test_each_layer_wins_over_the_one_below() -> None:
    layers: dict[str, Any] = {}
    assert loaded(**layers).config.cluster.port == 0
    assert loaded(**layers).provenance["cluster.port"] == "default"
    layers["document"] = {"cluster": {"port": 1}}
    assert loaded(**layers).config.cluster.port == 1
    assert loaded(**layers).provenance["cluster.port"] == "my.toml"
    layers["environ"] = {"PARAMSERVER_CLUSTER__PORT": "2"}
    assert loaded(**layers).config.cluster.port == 2
    assert loaded(**layers).provenance["cluster.port"] == "environment PARAMSERVER_CLUSTER__PORT"
    layers["sets"] = ["cluster.port=3"]
    assert loaded(**layers).config.cluster.port == 3
    assert loaded(**layers).provenance["cluster.port"] == "command line"
    layers["flags"] = {"cluster.port": 4, "cluster.host": None}
    assert loaded(**layers).config.cluster.port == 4
    assert loaded(**layers).provenance["cluster.host"] == "default"


def test_show_lists_every_value_and_where_it_came_from() -> None:
    rows = show(loaded(document={"layers": [{"units": 3}]}, sets=["device.select=1"]))
    assert ("layers.0.units", "3", "my.toml") in rows
    assert ("layers.0.kind", '"dense"', "default") in rows
    assert ("device.select", '"1"', "command line") in rows
    assert ("cluster.peers", "2", "default") in rows
    assert ("cluster.advertise", "none", "default") in rows


def test_a_wrong_value_names_source_key_and_value() -> None:
    document = {"cluster": {"port": -1}, "device": {"cores": 2.5}}
    assert lines(document=document) == [
        "my.toml: cluster.port: must not be negative, not -1",
        "my.toml: device.cores: must be a whole number, not 2.5",
    ]
    assert lines(environ={"PARAMSERVER_CLUSTER__PORT": "x"}) == [
        "PARAMSERVER_CLUSTER__PORT: must be a whole number, not 'x'"
    ]
    assert lines(sets=["cluster.deadline=0"]) == ["--set cluster.deadline: must be positive, not 0"]
    assert lines(flags={"cluster.port": 65536}) == [
        "command line: cluster.port: must be at most 65535, not 65536"
    ]


def test_text_is_no_number_in_a_file_and_one_in_the_environment() -> None:
    assert lines(document={"size": "3"}) == ["my.toml: size: must be a whole number, not '3'"]
    assert loaded(environ={"PARAMSERVER_SIZE": "3"}).config.size == 3


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        ({"document": {"sise": 1}}, "my.toml: sise: unknown key (did you mean size?)"),
        (
            {"document": {"cluster": {"prot": 1}}},
            "my.toml: cluster.prot: unknown key (did you mean port?)",
        ),
        (
            {"document": {"clustr": {"port": 1}}},
            "my.toml: clustr: unknown key (did you mean cluster?)",
        ),
        ({"sets": ["cluster.prot=1"]}, "--set cluster.prot: unknown key (did you mean port?)"),
        (
            {"document": {"layers": [{"units": 1, "unit": 2}]}},
            "my.toml: layers.0.unit: unknown key (did you mean units?)",
        ),
        (
            {"environ": {"PARAMSERVER_CLUSTER__PROT": "1"}},
            "PARAMSERVER_CLUSTER__PROT: unknown key (did you mean port?)",
        ),
        (
            {"document": {"device": {"x": 1}}},
            "my.toml: device.x: unknown key (known: select, cores, memory, target_cpu, tune)",
        ),
        ({"sets": ["size"]}, "--set size: write it as key=value, such as train.epochs=3"),
        ({"document": {"cluster": 3}}, "my.toml: cluster: must be a table of keys, not 3"),
        ({"document": {"layers": [{}]}}, "my.toml: layers.0.units: missing"),
        (
            {"document": {"layers": [{"units": 1}]}, "sets": ["layers.1.units=3"]},
            "--set layers.1.units: layers has only the elements 0 to 0",
        ),
    ],
)
def test_a_wrong_key_is_one_line(layers: dict[str, Any], line: str) -> None:
    assert lines(**layers) == [line]


def test_a_fault_between_keys_names_the_key_and_who_gave_the_section() -> None:
    assert lines(sets=["cluster.replicas=2"]) == [
        "--set cluster.replicas: replication does not exist yet: must be 1"
    ]
    assert lines(environ={"PARAMSERVER_CLUSTER__SHARDS": "2"}) == [
        "environment PARAMSERVER_CLUSTER__SHARDS: cluster.workers: missing: cluster.shards needs it"
    ]


def test_variables_of_others_are_left_alone_and_typing_errors_are_not() -> None:
    others = {
        "PARAMSERVER_TEST_SESSION": "1",
        "PARAMSERVER_TRAIN__EPOCHS": "3",
        "PARAMSERVER_SIZE": "",
        "PATH": "/bin",
    }
    assert loaded(environ=others).config == Whole()
    assert lines(environ={"PARAMSERVER_CLUSTR__PORT": "1"}) == [
        "environment PARAMSERVER_CLUSTR__PORT: clustr: unknown key (did you mean cluster?)"
    ]


def test_an_alias_sets_its_key() -> None:
    found = loaded(environ={"BASE": "5"}, aliases={"BASE": "size"})
    assert found.config.size == 5
    assert found.provenance["size"] == "environment BASE"


def test_an_element_of_a_list_can_be_set() -> None:
    document = {"layers": [{"units": 1}, {"units": 2}]}
    found = loaded(document=document, sets=["layers.1.units=7"])
    assert [layer.units for layer in found.config.layers] == [1, 7]
    assert found.provenance["layers.1.units"] == "command line"
    assert document["layers"][1]["units"] == 2
    whole = loaded(document=document, sets=["layers=[{units=9}]"])
    assert [layer.units for layer in whole.config.layers] == [9]


def test_text_is_parsed_as_the_field_takes_it() -> None:
    assert parse_text("3", int) == 3
    assert parse_text("3", str) == "3"
    assert parse_text("3", str | None) == "3"
    assert parse_text("3", str | int) == 3
    assert parse_text("species", str | int) == "species"
    assert parse_text("1e-3", float) == 1e-3
    assert parse_text(".5", float) == 0.5
    assert parse_text("true", bool) is True
    assert parse_text("[[0, 0.1]]", float) == [[0, 0.1]]
    assert parse_text("data/x.csv", Path) == "data/x.csv"
    assert parse_text("x\ny = 1", int) == "x\ny = 1"


def test_files_are_toml_or_json(tmp_path: Path) -> None:
    toml, other = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text("[cluster]\nport = 3\n")
    other.write_text(json.dumps({"cluster": {"port": 3}}))
    assert read_document(toml) == read_document(other) == {"cluster": {"port": 3}}


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("a.toml", b"[cluster\n", "not valid TOML: Expected"),
        ("a.json", b"{", "not valid JSON: "),
        ("a.json", b"[1]", "the whole must be a table of keys"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.toml", b"\xff\xfe", "not UTF-8"),
        ("a.toml", b"#" * (5 << 20), "over 4 MiB"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, name: str, data: bytes, word: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        read_document(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_or_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        read_document(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_document(tmp_path)


def test_a_parsed_document_is_a_table() -> None:
    assert parse_document(b"a = 2024-01-01\n", "x")["a"].year == 2024
    assert lines(document=parse_document(b"size = 2024-01-01\n", "x"))[0].startswith(
        "my.toml: size"
    )
