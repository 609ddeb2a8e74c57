"""A checkpoint is trusted only when all of it is there, vouched for and finite; whatever its folder is called."""

import dataclasses
import errno
import math
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.train.checkpoint import CheckpointConfig, CheckpointError, Checkpoints, NonFiniteState
from lmjax.train.checkpoint import checkpoints as checkpoints_module
from lmjax.train.checkpoint import folder as folder_module
from lmjax.train.checkpoint.checksums import SUMS
from lmjax.train.checkpoint.folder import BEST

NAMES = [
    "lr[1e-3]", "run*", "what?", "a\\b", "a b", " a ", "q'\"q", "a\nb", "a\tb", "ünï 中文 🎉", "-dash", "--folder",
    "100%", "%2F", "~", "a:b", "gs:", "s3:", "{a,b}", "$HOME", "|zip:", "#x", ".hidden", "...", "é" * 127, "x" * 255,
    "a.orbax-checkpoint-tmp-1", "5.corrupt", "7",
]  # fmt: skip


def state(value: float = 1.0):
    value = float(value)
    return {"params": {"w": jnp.full(3, value)}, "opt_state": {"m": jnp.full(2, value)}, "step": jnp.int32(value)}


def saved_steps(folder: pathlib.Path, *steps: int) -> pathlib.Path:
    with Checkpoints(folder, CheckpointConfig(keep_last=None)) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step))
    return folder


def loaded(folder: pathlib.Path, **options) -> tuple[float, list[str]]:
    """The value that the newest trusted step holds everywhere, and what was said."""
    notices: list[str] = []
    with Checkpoints(folder, notify=notices.append, **options) as checkpoints:
        restored, _ = checkpoints.restore(state())
    values = {float(value) for leaf in jax.tree.leaves(restored) for value in np.atleast_1d(leaf)}
    assert len(values) == 1
    return values.pop(), notices


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_any_name_of_a_folder(tmp_path, name):
    folder = saved_steps(tmp_path / name / "checkpoints", 1)
    assert loaded(folder) == (1.0, [])
    assert loaded(folder, read_only=True) == (1.0, [])
    assert {p.name for p in tmp_path.iterdir()} == {name}
    assert {p.name for p in folder.iterdir()} == {"1"}


def test_a_pattern_does_not_reach_into_the_folders_it_matches(tmp_path):
    saved_steps(tmp_path / "run1" / "checkpoints", 1, 2)
    with Checkpoints(tmp_path / "run*" / "checkpoints") as checkpoints:
        checkpoints.save(1, state(5.0))
    assert loaded(tmp_path / "run*" / "checkpoints") == (5.0, [])


def cut_at_a_line(step: pathlib.Path):
    lines = (step / SUMS).read_text().splitlines(keepends=True)
    (step / SUMS).write_text("".join(lines[:2]))


def cut_within_a_line(step: pathlib.Path):
    (step / SUMS).write_bytes((step / SUMS).read_bytes()[:-7])


def listed_outside(step: pathlib.Path):
    other = step.parent / "1" / "contents" / "data.json"
    line = (step / SUMS).read_text().splitlines()[0].replace("_CHECKPOINT_METADATA", f"../1/contents/{other.name}")
    (step / SUMS).write_text(f"{line}\n" + (step / SUMS).read_text())


DAMAGES = {
    "cut at a line": (cut_at_a_line, "is not listed"),
    "cut within a line": (cut_within_a_line, "cut short"),
    "empty": (lambda step: (step / SUMS).write_text(""), "is empty"),
    "rubbish": (lambda step: (step / SUMS).write_text("rubbish\n" * 9), "line 1 of SHA256SUMS"),
    "another encoding": (lambda step: (step / SUMS).write_bytes(b"\xff\xfe" + bytes(40)), "not UTF-8"),
    "absolute names": (lambda step: (step / SUMS).write_text(f"{'0' * 64}  /etc/passwd\n"), "no file of this folder"),
    "names outside": (listed_outside, "no file of this folder"),
    "one name twice": (lambda step: (step / SUMS).write_text((step / SUMS).read_text() * 2), "named twice"),
    "a folder in its place": (lambda step: ((step / SUMS).unlink(), (step / SUMS).mkdir()), "cannot be read"),
    "a file that is not listed": (lambda step: (step / "params" / "d" / "new").write_text("x"), "not listed"),
    "a file beside the parts": (lambda step: (step / "new").write_text("x"), "new is not listed"),
    "a file beside the parts changed": (lambda step: (step / "_CHECKPOINT_METADATA").write_text("{}"), "differs"),
    "a part without its manifest": (lambda step: (step / "training" / "manifest.ocdbt").unlink(), "missing"),
    "a part gone": (lambda step: shutil.rmtree(step / "training"), "missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_of_a_step_or_of_its_sums_is_noticed(tmp_path, name):
    damage, words = DAMAGES[name]
    folder = saved_steps(tmp_path, 1, 2)
    damage(folder / "2")
    value, notices = loaded(folder)
    assert value == 1.0
    assert len(notices) == 1 and "step 2" in notices[0] and words in notices[0] and "2.corrupt" in notices[0], notices


def test_what_a_desktop_hides_in_a_folder_is_no_damage(tmp_path):
    folder = saved_steps(tmp_path, 1)
    (folder / "1" / ".DS_Store").write_text("x")
    (folder / "1" / "params" / "._d").write_text("x")
    assert loaded(folder) == (1.0, [])


def test_a_step_without_sums_gets_them_once_all_of_it_was_read(tmp_path):
    folder = saved_steps(tmp_path, 1)
    before = (folder / "1" / SUMS).read_text()
    (folder / "1" / SUMS).unlink()
    assert "not verified" in loaded(folder, read_only=True)[1][0]
    assert not (folder / "1" / SUMS).exists()
    value, notices = loaded(folder)
    assert value == 1.0 and "not verified" in notices[0] and "written now" in notices[1]
    assert (folder / "1" / SUMS).read_text() == before


def test_a_step_is_not_sealed_when_reading_it_needs_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "missing_file", lambda folder, parts: "params/manifest.ocdbt")
    with (
        pytest.raises(CheckpointError, match=r"step 1 could not be written .*params/manifest.ocdbt is missing"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(1, state())
    assert [p.name for p in tmp_path.iterdir()] == ["1.corrupt"]
    assert not (tmp_path / "1.corrupt" / SUMS).exists()


BROKEN = {
    "params": {**state(), "params": {"w": jnp.array([1.0, math.nan, 1.0])}},
    "moments": {**state(), "opt_state": {"m": jnp.array([math.inf, 1.0])}},
    "carry": {**state(), "carry": jnp.array([-math.inf], jnp.bfloat16)},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, name):
    folder = saved_steps(tmp_path, 1)
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(NonFiniteState, match=r"step 2: after its update .* is not finite; .*checkpoint: 1\."):
            checkpoints.save(2, BROKEN[name])
        assert checkpoints.steps() == [1]


def test_the_sharded_state_is_looked_at_on_all_its_devices(tmp_path):
    mesh = jax.make_mesh((8,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    array = jax.device_put(jnp.ones(16).at[13].set(math.nan), spread)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(NonFiniteState, match="update params.w is not finite"):
        checkpoints.save(1, {"params": {"w": array, "v": jax.device_put(jnp.ones(16), spread)}})


def test_a_newest_step_that_is_not_finite_is_set_aside_and_the_one_before_taken(tmp_path, monkeypatch):
    """As versions that did not look have saved them."""
    folder = saved_steps(tmp_path, 1)
    monkeypatch.setattr(checkpoints_module, "not_finite", lambda leaves: [])
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, BROKEN["params"])
    with Checkpoints(folder, read_only=True, notify=lambda _: None) as checkpoints:
        params, step = checkpoints.restore_params(state()["params"])
        assert step == 1 and params["w"][0] == 1.0
        with pytest.raises(CheckpointError, match="step 2 .* is damaged: not finite: params.w"):
            checkpoints.restore_params(state()["params"], step=2)
    value, notices = loaded(folder)
    assert value == 1.0 and "step 2" in notices[0] and "not finite: params.w" in notices[0]


def test_only_damaged_steps_are_refused_and_what_to_do_is_said(tmp_path):
    folder = saved_steps(tmp_path, 1, 2)
    for step in (1, 2):
        cut_within_a_line(folder / str(step))
    for _ in range(2):
        with (
            Checkpoints(folder, notify=lambda _: None) as checkpoints,
            pytest.raises(CheckpointError, match=r"only damaged ones set aside \(1.corrupt, 2.corrupt\): .*rename one"),
        ):
            checkpoints.restore(state())
    (folder / "2.corrupt" / SUMS).unlink()
    (folder / "2.corrupt").rename(folder / "2")
    assert loaded(folder)[0] == 2.0


def test_the_best_step_survives_pruning_and_a_restart(tmp_path):
    config = CheckpointConfig(keep_last=1, keep_best=True)
    losses = {1: 3.0, 2: 2.0, 3: math.nan, 4: 2.5}
    with Checkpoints(tmp_path, config) as checkpoints:
        for step, loss in losses.items():
            assert checkpoints.improves(loss) == (step < 3)
            checkpoints.save(step, state(step), value=loss)
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best_step()) == ([2, 4], 2)
    with Checkpoints(tmp_path, config) as checkpoints:
        checkpoints.save(5, state(5), value=2.1)
        checkpoints.save(6, state(6), value=1.5)
        checkpoints.save(7, state(7))
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best_step()) == ([6, 7], 6)
        assert not checkpoints.save(7, state(7), value=1.0), "it is there, and now known to be the best"
        assert checkpoints.best_step() == 7
    # Another number is not compared with the loss that decided before, nor is a highest value with a lowest one.
    for which, better, worse in (("lowest", 8.0, 9.0), ("highest", 0.5, 0.4)):
        other = dataclasses.replace(config, best_by="code/accuracy", best_is=which)
        with Checkpoints(tmp_path, other) as checkpoints:
            assert checkpoints.improves(better)
            checkpoints.save(7 + (which == "highest") + 1, state(8), value=better)
            checkpoints.wait()
            assert not checkpoints.improves(worse) and checkpoints.best_step() > 7
    (tmp_path / BEST).write_text('{"step": 9, "loss": 1.0}')
    assert not Checkpoints(tmp_path, config).improves(1.1) and Checkpoints(tmp_path, config).improves(0.9)
    shutil.rmtree(tmp_path / "9")
    assert Checkpoints(tmp_path, config, read_only=True).best_step() is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"step": 1}', '{"step": 1e999, "loss": 1}', '{"step": 1, "loss": 1' + "0" * 400 + "}", "[" * 100_000],
)
def test_a_damaged_note_of_the_best_step_is_as_none(tmp_path, text):
    (tmp_path / "1").mkdir()
    (tmp_path / BEST).write_text(text)
    assert Checkpoints(tmp_path, read_only=True).best_step() is None


def gone(path: pathlib.Path, ignore_errors: bool = False):
    """Somebody else deletes the folder while it is deleted."""
    shutil.rmtree(path, ignore_errors)
    if not ignore_errors:
        raise FileNotFoundError(path)


def busy(path: pathlib.Path):
    """Somebody else writes into the folder while it is deleted, or it cannot be changed."""
    raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))


@pytest.mark.parametrize(
    ("deletion", "words"), [(gone, []), (busy, ["checkpoint of step 2 is saved; the old checkpoint of step 1"])]
)
def test_an_old_step_that_cannot_be_deleted_does_not_end_the_run(tmp_path, monkeypatch, deletion, words):
    notices: list[str] = []
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=1), notify=notices.append) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        with monkeypatch.context() as patched:
            patched.setattr(folder_module, "shutil", types.SimpleNamespace(rmtree=deletion))
            checkpoints.save(2, state(2))
            checkpoints.wait()
        checkpoints.save(3, state(3))
    assert [notice[: len(word)] for notice, word in zip(notices, words, strict=True)] == words
    assert loaded(tmp_path) == (3.0, [])
    assert {path.name for path in tmp_path.iterdir()} == {"3"}, "what was left of step 1 is cleared at the next start"
