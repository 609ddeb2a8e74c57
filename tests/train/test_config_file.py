"""config.json: what it may name, and that damage of any kind is one message to the user."""

import copy
import dataclasses
import importlib
import json
import pkgutil
import sys

import pytest

from lmjax.choice import MODULES_VARIABLE, Choice, members
from lmjax.field_types import LARGEST
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.recurrent import Mamba2Config
from lmjax.objectives import DPO, UL2, CausalLM, Mixture, Part
from lmjax.schedules.ramp import Ramp
from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json, read_config, to_json, write_config
from lmjax.train.optimizers import SGD, Adafactor, AdamW, Lion

CONFIG = RunConfig(
    name="fuzzed",
    objective=Mixture(parts=(Part(name="a", objective=UL2()), Part(name="b", objective=CausalLM(z_loss=1e-4)))),
)
OWN = """
import dataclasses
from lmjax.objectives import CausalLM

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(CausalLM):
    strength: float = 1.0

print("imported")
"""


@pytest.fixture
def written(tmp_path):
    """``written(content)``: a run folder's config.json with this text, or these values."""

    def write(content):
        path = tmp_path / "config.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def refusal(path) -> str:
    with pytest.raises(ValueError) as error:
        read_config(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_what_is_written_is_read(tmp_path):
    for config in (CONFIG, RunConfig(name="dpo", objective=DPO(beta=Ramp.parse("0.1:0.5:100")))):
        write_config(config, tmp_path / "config.json")
        assert read_config(tmp_path / "config.json") == config


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """The name of a module that can be imported and is not ours."""
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").write_text("")
    (tmp_path / "their_package" / "objectives.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_package.objectives"
    for name in ("their_package", "their_package.objectives"):
        sys.modules.pop(name, None)


def test_a_folder_alone_has_no_module_imported(written, own_module, monkeypatch, capsys):
    content = to_json(RunConfig(name="own")) | {"objective": {"type": f"{own_module}:Mine", "strength": 2.0}}
    message = refusal(written(content))
    assert f"set {MODULES_VARIABLE}=their_package in the environment" in message
    assert own_module not in sys.modules and not capsys.readouterr().out
    monkeypatch.setenv(MODULES_VARIABLE, "elsewhere, their_package")
    config = read_config(written(content))
    assert capsys.readouterr().out == "imported\n" and config.objective.strength == 2.0
    # The recipe of a command has imported it: nothing more need be said.
    monkeypatch.delenv(MODULES_VARIABLE)
    assert read_config(written(content)) == config


@pytest.mark.parametrize(
    "name",
    [
        "lib2to3.__main__:x", "this:s", "os:system", "lmjax.__main__:main", "lmjax.cli.main:main", "antigravity:x",
        "lmjax.objectives.parts.token_objective:TokenObjective", "lmjax.objectives.parts.objective:Objective",
        "lmjax.objectives.parts.objective:jax",
        "lmjax.objectives.nothing:There", "lmjax.objectives.causal_lm", "lmjax.objectives.causal_lm:CausalLM.x",
        ".relative:X", "..:X", "", ":", "a b:C", "lmjax.objectives..base:X", "../x:Y", "x\ny:Z", None, 3, ["a:B"], {},
    ],
)  # fmt: skip
def test_what_is_no_objective_is_refused_and_not_imported(name, written):
    before = set(sys.modules)
    message = refusal(written(to_json(CONFIG) | {"objective": {"type": name}}))
    assert "objective" in message and "\n" not in message
    assert set(sys.modules) - before <= {"lmjax.objectives.nothing"}


@pytest.mark.parametrize(
    "name", ["lmjax.models.config:ModelConfig", "lmjax.cli.plot:PlotArguments", "json:JSONDecoder"]
)
def test_a_class_that_is_known_to_be_no_objective_is_said_to_be_none(name, written):
    message = refusal(written(to_json(CONFIG) | {"objective": {"type": name}}))
    assert f"{name!r} is not an objective" in message and MODULES_VARIABLE not in message


OWN_OPTIMIZER = """
import dataclasses
from lmjax.train.optimizers import SGD

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(SGD):
    strength: float = 1.0
"""


def test_an_optimizer_is_named_and_trusted_as_an_objective_is(written, own_module, monkeypatch, tmp_path):
    (tmp_path / "their_package" / "objectives.py").write_text(OWN_OPTIMIZER)
    content = to_json(RunConfig(name="own")) | {"optimizer": {"type": f"{own_module}:Mine", "strength": 2.0}}
    assert f"the optimizer '{own_module}:Mine' is not one of lmjax" in refusal(written(content))
    monkeypatch.setenv(MODULES_VARIABLE, "their_package")
    assert read_config(written(content)).optimizer.strength == 2.0
    # An objective is no optimizer, though both are trusted.
    content["optimizer"] = to_json(CausalLM())
    assert "is not an optimizer" in refusal(written(content))


def test_every_choice_is_written_with_its_class(tmp_path):
    for optimizer in (AdamW(beta2=0.5), Lion(), SGD(momentum=0.0), Adafactor(clip_norm=None)):
        config = RunConfig(name="x", optimizer=optimizer)
        assert to_json(config)["optimizer"]["type"].endswith(f":{type(optimizer).__name__}")
        write_config(config, tmp_path / "config.json")
        assert read_config(tmp_path / "config.json") == config
    for family in Choice.__subclasses__():
        home = importlib.import_module(family.home)
        for module in pkgutil.iter_modules(home.__path__, f"{family.home}."):
            importlib.import_module(module.name)
        inside = [name for name in members(family) if name.startswith("lmjax.")]
        assert inside, family
        assert all(name.startswith(f"{family.home}.") for name in inside)


UNSET = {"beta1": None, "beta2": None, "epsilon": None, "momentum": None, "min_factored_size": None}


@pytest.mark.parametrize(
    ("older", "optimizer"),
    [
        ({"name": "adamw", "beta2": 0.98}, AdamW(beta2=0.98)),
        ({"name": "lion", "beta1": 0.5, "moment_dtype": "bfloat16"}, Lion(beta1=0.5, moment_dtype="bfloat16")),
        ({"name": "sgd", "momentum": 0.0, "clip_norm": None}, SGD(momentum=0.0, clip_norm=None)),
        ({"name": "adafactor", "min_factored_size": 4, "decay_embeddings": True},
         Adafactor(min_factored_size=4, decay_embeddings=True)),
    ],
)  # fmt: skip
def test_a_configuration_of_an_earlier_version_is_read(older, optimizer, written):
    model = {"width": 64, "dtype": "bfloat16", "scan_layers": False, "remat": "none", "attention": "xla",
             "mamba2": {"groups": 2, "chunk": 5}, "rwkv6": {"chunk": 6}}  # fmt: skip
    common = {"learning_rate": 0.5, "weight_decay": 0.25, "clip_norm": 1.0, "moment_dtype": None}
    config = read_config(written({"name": "x", "model": model, "optimizer": {**common, **UNSET, **older}}))
    assert config.optimizer == dataclasses.replace(optimizer, learning_rate=0.5, weight_decay=0.25)
    assert config.model == ModelConfig(
        width=64,
        mamba2=Mamba2Config(groups=2),
        execution=ExecutionConfig(
            dtype="bfloat16", scan_layers=False, remat="none", attention="xla", mamba2_chunk=5, rwkv6_chunk=6
        ),
    )
    message = refusal(written({"name": "x", "optimizer": {**common, "name": "adam"}}))
    assert "type is None: must name an optimizer, as in lmjax.train.optimizers." in message


def places(value, path=()):
    """Every key of nested JSON values, as a path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(content, path, change):
    content = copy.deepcopy(content)
    *above, last = path
    place = content
    for key in above:
        place = place[key]
    change(place, last)
    return content


VALUES = (
    None, True, -1, 0, 7, LARGEST + 1, 10**80, 1.5, -2.5, 1e300, float("inf"), float("-inf"), "", "x", "\ud800", "a\0b",
    [], [None], [[1]], [1, 2, 3], {}, {"x": 1}, {"type": "os:system"},
)  # fmt: skip


@pytest.fixture(scope="module")
def content():
    return json.loads(json.dumps(to_json(CONFIG)))


@pytest.mark.parametrize("turn", range(4))
def test_any_value_in_any_place_is_read_or_refused_in_one_line(turn, content):
    """Each place with some of the values, and each value in many places: all with all take half a minute."""
    refused = tried = 0
    for number, path in enumerate(places(content)):
        value = VALUES[(number + turn * 6) % len(VALUES)]
        tried += 1
        try:
            from_json(RunConfig, changed(content, path, lambda place, key, value=value: place.__setitem__(key, value)))
        except ValueError as error:
            refused += 1
            assert str(error).startswith("config.json"), (path, value, error)
            assert "\n" not in str(error) and len(str(error)) < 600, (path, value, error)
        except Exception as error:
            raise AssertionError(f"{path} = {value!r}: {error!r}") from error
    assert tried > 200 and refused > 0.6 * tried


def test_sizes_of_nothing_are_refused():
    for name in ("num_kv_heads", "head_width", "embedding_width", "encoder_heads"):
        with pytest.raises(ValueError, match=rf"config.json: model: model.{name}=0: must be at least 1, or None"):
            from_json(RunConfig, {"name": "x", "model": {name: 0, "encoder_layers": 1}})


@pytest.mark.parametrize("fraction", [1e300, 1e308, 0.0, -1.0])
def test_a_rotary_fraction_beyond_all_bounds_is_refused(fraction):
    with pytest.raises(ValueError, match="rope_fraction"):
        from_json(RunConfig, {"name": "x", "model": {"rope_fraction": fraction}})


def test_a_missing_key_is_its_default_and_an_unknown_one_refused(content):
    for path in places(content):
        if isinstance(path[-1], int):
            continue
        try:
            from_json(RunConfig, changed(content, path, lambda place, key: place.pop(key)))
        except ValueError as error:
            assert any(said in str(error) for said in ("is missing", "type is None", "at least one Part")), (
                path,
                error,
            )
        with pytest.raises(ValueError, match=f"unknown field '{path[-1]}_'"):
            from_json(RunConfig, changed(content, path, lambda place, key: place.update({f"{key}_": 1})))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 50_000, "nested too deeply"),
        ("[]", "must be an object of fields"),
        ("null", "must be an object of fields"),
        ('{"name": "x", "name": "y"}', "the key 'name' twice"),
        ('{"name": "x", "train": {"steps": NaN}}', "the number NaN"),
        ('{"name": "x", "train": {"ema_decay": 1e999}}', "the number 1e999"),
        ('{"name": "x", "train": {"ema_decay": Infinity}}', "train: ema_decay is inf: must be finite"),
        ('{"name": "x", "train": {"steps": ' + "9" * 5000 + "}}", "of 5000 digits"),
        ('{"name": "\xff"}', "name"),
    ],
)  # fmt: skip
def test_what_is_not_meant_is_refused(content, message, written):
    if content == '{"name": "\xff"}':
        path = written("")
        path.write_bytes(content.encode("latin-1"))
        assert "not UTF-8" in refusal(path)
    else:
        assert message in refusal(written(content))


def test_mixtures_within_mixtures_come_to_an_end(written):
    objective = to_json(CausalLM())
    for _ in range(300):
        objective = to_json(CONFIG.objective) | {
            "parts": [dataclasses.asdict(CONFIG.objective.parts[0]) | {"objective": objective}]
        }
    assert "nested too deeply" in refusal(written(to_json(CONFIG) | {"objective": objective}))


def test_from_json_names_the_place():
    with pytest.raises(ValueError, match=r"here: train: steps is 'many': must be int"):
        from_json(RunConfig, {"name": "x", "train": {"steps": "many"}}, where="here")
