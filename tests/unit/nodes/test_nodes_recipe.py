import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.engine import open_engine
from nodes.data import load_dataset, permutation
from nodes.models import Model
from nodes.recipe import Recipe, load_recipe, shipped
from nodes.training.learner import Learner
from paramserver.configfile import show
from paramserver.errors import ConfigurationError
from paramserver.spec import RunSpec
from tests.support.cluster import plan_of

OWN = """
consistency = "ssp"
staleness = 2

[model]
layers = [{ units = 8 }, {}]

[data]
path = "rows.csv"
"""


def load(name: str | Path, **layers: Any) -> Recipe:
    return load_recipe(name, **{"environ": {}, **layers}).config


def lines(name: str | Path, **layers: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(name, **layers)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", ["digits", "iris", "mnist"])
def test_shipped_recipes_survive_json(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert Recipe.model_validate(json.loads(json.dumps(recipe.dump()))) == recipe


def test_shipped_names() -> None:
    assert shipped() == ("digits", "iris", "lenet", "mnist", "mnist-dl4j")


def test_a_file_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my recipe.toml"
    path.write_text(OWN)
    recipe = load(path)
    assert (recipe.name, recipe.consistency, recipe.staleness) == ("my-recipe", "ssp", 2)
    assert recipe.data.path == tmp_path / "rows.csv"
    as_json = tmp_path / "same.json"
    as_json.write_text(json.dumps(recipe.dump()))
    assert load(as_json) == recipe


def test_an_unknown_recipe_lists_the_names() -> None:
    assert lines("mnits") == [
        "unknown recipe 'mnits' (did you mean mnist?): use digits, iris, lenet, mnist, mnist-dl4j, or "
        "the path of a .toml or .json file"
    ]
    assert lines("none.toml") == ["none.toml: no such file"]
    assert lines("some/folder") == ["some/folder: no such file"]


def test_a_home_that_is_none_is_one_line(tmp_path: Path) -> None:
    says = "~nobody-of-this-name/x.csv: its ~ stands for no home here: write the whole path"
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace("rows.csv", "~nobody-of-this-name/x.csv"))
    assert lines(path) == [f"{path}: data.path: {says}"]
    assert lines("~nobody-of-this-name/x.csv") == [says]


def test_every_fault_is_one_line_with_its_source(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'consistency = "bps"\n[model]\nlayers = [{ units = 3 }, { units = 0 }]\n'
        '[data]\nsource = "digits"\n[train]\nbatchsize = 3\n'
    )
    assert sorted(lines(path, sets=["train.epochs=many"])) == [
        "--set train.epochs: must be a whole number, not 'many'",
        f"{path}: consistency: must be one of bsp, ssp, asp, not 'bps'",
        f"{path}: model.layers.1.units: must be positive, not 0",
        f"{path}: train.batchsize: unknown key (did you mean batch_size?)",
    ]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("")
    assert lines(path) == [f"{path}: model: missing", f"{path}: data: missing"]


def test_modes_that_there_are_not_are_refused() -> None:
    assert lines("digits", sets=["mode=sandblaster"]) == [
        '--set mode: "sandblaster" is not built yet: use gradient, delta, average, hogwild, '
        "iterative_reduce"
    ]
    assert lines("digits", sets=["mode=sync"]) == [
        "--set mode: must be one of gradient, delta, average, hogwild, iterative_reduce, not 'sync'"
    ]


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (
            ["mode=average", "consistency=ssp"],
            '--set consistency: mode "average" needs "bsp", not "ssp": a mean takes every part',
        ),
        (
            ["mode=iterative_reduce", "consistency=asp"],
            '--set consistency: mode "iterative_reduce" needs "bsp", not "asp": set it so, or '
            "leave it out",
        ),
        (
            ["train.period=10"],
            '--set train.period: must be 1 with mode "gradient", which pushes after each step',
        ),
        (["mode=delta", "train.period=0"], "--set train.period: must be positive, not 0"),
    ],
)
def test_pairs_that_do_not_fit_are_one_line(sets: list[str], line: str) -> None:
    assert lines("digits", sets=sets) == [line]


def test_a_mode_decides_which_rule_runs_where() -> None:
    sets = ["train.period=10", "train.weight_decay=0.01", "train.parts=2"]
    for mode in ("gradient", "delta", "average"):
        recipe = load("digits", sets=[f"mode={mode}", *(sets if mode != "gradient" else sets[1:])])
        spec = plan_of(recipe).spec(workers=2, min_workers=2, min_shards=1)
        assert RunSpec.model_validate(json.loads(spec.model_dump_json())) == spec
        assert spec.mode == mode
        own = recipe.train.update_rule()
        assert own.weight_decay == 0.01
        if mode == "gradient":
            assert (spec.table.rule, spec.local) == (own, None)
        else:
            added = (spec.table.rule.name, spec.table.rule.rate_at(9), spec.table.rule.weight_decay)
            assert (added, spec.local, spec.period) == (("sgd", 1.0, 0.0), own, 10)
        assert spec.table.combine == ("mean" if mode == "average" else "update")


def test_hogwild_is_a_word_for_gradient_and_asp(tmp_path: Path) -> None:
    path = tmp_path / "hog.toml"
    path.write_text('mode = "hogwild"\n' + OWN.split("\n", 3)[3])
    loaded = load_recipe(path, environ={})
    assert (loaded.config.mode, loaded.config.consistency) == ("gradient", "asp")
    assert loaded.provenance["consistency"] == str(path)
    assert load("digits", sets=["mode=hogwild"]).consistency == "asp"
    reduced = load("digits", sets=["mode=iterative_reduce", "train.period=5"])
    assert (reduced.mode, reduced.consistency, reduced.train.period) == ("average", "bsp", 5)


def test_every_form_of_a_rate_is_shown_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "rates.toml"
    form = '{ kind = "cosine", start = 0.1, end = 0.001, steps = 2000 }'
    path.write_text(f"{OWN}[train]\nwarmup = 100\nrate = {form}\n")
    loaded = load_recipe(path, sets=["train.rate.steps=500"], environ={})
    rule = loaded.config.train.update_rule()
    assert (rule.rate_at(0), rule.rate_at(500)) == (pytest.approx(0.001), pytest.approx(0.001))
    rows = {key: (value, source) for key, value, source in show(loaded)}
    assert rows["train.rate.kind"] == ('"cosine"', str(path))
    assert rows["train.rate.steps"] == ("500", "command line")
    again = Recipe.model_validate(json.loads(json.dumps(loaded.config.dump())))
    assert again == loaded.config
    assert load(path, sets=["train.rate=0.5"]).train.rate == 0.5
    assert lines(path, sets=["train.rate.steps=0"]) == [
        "--set train.rate.steps: must be positive, not 0"
    ]
    assert lines("digits", sets=['train.rate={kind="step", start=0.1, factor=0.5}']) == [
        "command line: train.rate.every: missing"
    ]
    assert lines("digits", sets=['train.rate={kind="exponential", start=0.1, factor=2.0}']) == [
        "--set train.rate.factor: must be at most 1.0, not 2.0"
    ]


def test_the_data_s_variable_is_the_root(tmp_path: Path) -> None:
    loaded = load_recipe("mnist", environ={"PARAMSERVER_DATA": str(tmp_path)})
    assert loaded.config.data.root == tmp_path
    assert loaded.provenance["data.root"] == "environment PARAMSERVER_DATA"


def trained(recipe: Recipe) -> float:
    """Train as one process and one part do, with the rule in plain numpy; return the accuracy."""
    data = load_dataset(recipe.data)
    which = Model.for_dataset(recipe.model, data)
    learner = Learner(open_engine("numpy"), which, 512)
    rule = recipe.train.update_rule()
    assert rule.name == "momentum"
    weights = which.initial_weights(recipe.seed)
    velocity, gradient = np.zeros_like(weights), np.empty_like(weights)
    x, y = data.buffers(512)
    step = 0
    for epoch in range(recipe.train.epochs):
        order = permutation(recipe.seed, epoch, len(data.train_x))
        for start in range(0, len(order), recipe.train.batch_size):
            rows = order[start : start + recipe.train.batch_size]
            count = len(rows)
            data.batch(rows, x[:count], y[:count])
            assert learner.gradient(weights, x[:count], y[:count], gradient).finite
            velocity *= np.float32(rule.momentum)
            velocity += gradient / np.float32(count)
            weights -= np.float32(rule.rate_at(step)) * velocity
            step += 1
    count = len(data.test_x)
    data.test_batch(0, count, x[:count], y[:count])
    return learner.evaluate(weights, x[:count], y[:count]).correct / count


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_reach_their_accuracy(seed: int) -> None:
    assert trained(load("digits", sets=[f"seed={seed}"])) >= 0.96


def test_irises_reach_theirs() -> None:
    assert trained(load("iris")) >= 0.9
