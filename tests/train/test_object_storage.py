"""Runs in object storage: what is visible there after kills, damage and failures, and what a start goes on from."""

import dataclasses
import json
import pathlib
import shutil
import threading

import pytest
from servers import address, servers  # noqa: F401
from tiny_run import config, numbers, on_one_device, with_train, write_corpus

from lmjax.cli import runs
from lmjax.cli.arguments import parse_arguments, without_checkpoint
from lmjax.cli.plot import PlotArguments
from lmjax.remote import bucket as bucket_module
from lmjax.remote.bucket import Bucket, RemoteError
from lmjax.remote.lease import LEASE, LeaseHeldError, LeaseLostError, leased
from lmjax.train.checkpoint import CheckpointConfig, CheckpointError
from lmjax.train.checkpoint.checksums import write_sums
from lmjax.train.checkpoint.folder import Best, steps_there, write_best
from lmjax.train.checkpoint.manifest import Manifest, manifest_name, visible_steps
from lmjax.train.checkpoint.mirror import Mirror, hide_damaged
from lmjax.train.checkpoint.remote import fetch_newest
from lmjax.train.config import RunConfig
from lmjax.train.config_file import read_config
from lmjax.train.loop import train
from lmjax.train.mirrored import mirrored
from lmjax.train.record import Record
from lmjax.train.remote_run import local_run, step_before
from lmjax.train.run_folder import split_checkpoint
from lmjax.train.saves import texts_of

KEEP_TWO = CheckpointConfig(every_steps=2, keep_last=2)


class Holder:
    """A lease that is held, or lost."""

    lost = False

    def confirm(self):
        if self.lost:
            raise LeaseLostError("the lease is lost")


def make_save(folder, step):
    part = folder / "checkpoints" / str(step) / "params"
    part.mkdir(parents=True)
    (part / "values").write_text(f"values of {step}")
    write_sums(part.parent)


def save(mirror, folder, step):
    make_save(folder, step)
    mirror.describe(step, {"config.json": f"config of {step}", "record.json": "{}"})
    mirror.push(step)


def objects(bucket):
    return {name for name in bucket.sizes() if not name.endswith(LEASE)}


@pytest.fixture
def run(tmp_path, address):  # noqa: F811
    folder = tmp_path / "run"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return Bucket(address), folder


def mirror_of(run, said=None, holder=None):
    said = [] if said is None else said
    return Mirror(*run, KEEP_TWO, lease=holder or Holder(), say=said.append)


@pytest.fixture
def three_saves(run):
    """A run of which saves 2, 4 and 6 were copied one after the other."""
    mirror = mirror_of(run)
    for step in (2, 4, 6):
        save(mirror, run[1], step)
        while mirror.pending():
            threading.Event().wait(0.01)
    mirror.close()
    return run


def test_the_kept_saves_are_visible_and_whole_and_come_back(three_saves, tmp_path):
    bucket, folder = three_saves
    assert visible_steps(bucket.sizes()) == [4, 6]
    assert not any(name.startswith("checkpoints/2/") for name in objects(bucket))
    new = tmp_path / "new"
    manifest = fetch_newest(bucket, new, say=print)
    assert manifest.step == 6 and steps_there(new / "checkpoints") == [6]
    assert (new / "config.json").read_text() == "config of 6"
    for name in ("checkpoints/6/params/values", "checkpoints/6/SHA256SUMS", "tokenizer/tokenizer.json"):
        assert (new / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("damage", ["flip", "delete", "manifest"])
def test_a_damaged_save_is_hidden_and_the_one_before_is_taken(three_saves, tmp_path, damage):
    bucket, _ = three_saves
    name = manifest_name(6) if damage == "manifest" else "checkpoints/6/params/values"
    content = bucket.read(name)
    bucket.delete(name) if damage == "delete" else bucket.write(name, content.replace(b"6", b"7", 1))
    said = []
    manifest = fetch_newest(bucket, tmp_path / "new", say=said.append, damaged=lambda step: hide_damaged(bucket, step))
    assert manifest.step == 4 and steps_there(tmp_path / "new" / "checkpoints") == [4]
    assert "step 6 is damaged" in "".join(said)
    assert visible_steps(bucket.sizes()) == [4] and "saves/6.corrupt.json" in objects(bucket)
    bucket.delete("checkpoints/4/params/values")
    with pytest.raises(CheckpointError, match="none of its checkpoints .* is intact"):
        fetch_newest(bucket, tmp_path / "again", say=said.append)


def test_a_copy_that_was_killed_is_invisible_and_is_cleared(three_saves, tmp_path):
    bucket, folder = three_saves
    make_save(folder, 8)
    bucket.upload(folder / "checkpoints" / "8" / "params" / "values", "checkpoints/8/params/values")
    assert fetch_newest(bucket, tmp_path / "new", say=print).step == 6
    mirror = mirror_of(three_saves)
    mirror.clear_unfinished()
    mirror.close()
    assert not any(name.startswith("checkpoints/8/") for name in objects(bucket))


def test_a_save_is_visible_only_after_all_its_files(run, monkeypatch):
    bucket, folder = run
    seen = []
    upload = Bucket.upload
    monkeypatch.setattr(
        Bucket, "upload", lambda self, path, name: (seen.append(visible_steps(self.sizes())), upload(self, path, name))
    )
    mirror = mirror_of(run)
    save(mirror, folder, 2)
    mirror.close()
    assert seen and not any(seen) and visible_steps(bucket.sizes()) == [2]


def test_storage_that_fails_for_a_while_delays_saves_and_deletes_nothing(run, monkeypatch):
    bucket, folder = run
    works = threading.Event()
    upload = Bucket.upload

    def sometimes(self, path, name):
        if not works.is_set():
            raise RemoteError("no network")
        upload(self, path, name)

    monkeypatch.setattr(Bucket, "upload", sometimes)
    said = []
    mirror = mirror_of(run, said)
    save(mirror, folder, 2)
    while not said:
        threading.Event().wait(0.01)
    assert mirror.pending() == {2} and "not copied" in said[0] and "no network" in said[0]
    works.set()
    save(mirror, folder, 4)
    mirror.close()
    assert visible_steps(bucket.sizes()) == [2, 4]


def test_a_run_whose_last_save_cannot_be_copied_ends_with_an_error(run, monkeypatch):
    def never(*_):
        raise RemoteError("no network")

    monkeypatch.setattr(Bucket, "upload", never)
    mirror = mirror_of(run)
    save(mirror, run[1], 2)
    with pytest.raises(CheckpointError, match=r"step 2 could not be copied .*no network.*the same command on this"):
        mirror.close()


def test_who_has_lost_the_lease_makes_nothing_visible(run):
    holder = Holder()
    mirror = mirror_of(run, holder=holder)
    holder.lost = True
    save(mirror, run[1], 2)
    with pytest.raises(CheckpointError, match="lease is lost"):
        mirror.close()
    assert visible_steps(run[0].sizes()) == []


@pytest.mark.parametrize(
    "name", ["../x", "checkpoints/6/../../x", "/etc/x", "checkpoints/7/x", "config.json", "tokenizer/..", "x\0"]
)
def test_a_manifest_cannot_name_files_elsewhere(name):
    content = Manifest(step=6, files={name: "0" * 64}, texts={}).to_bytes()
    with pytest.raises(ValueError, match="no file of this step"):
        Manifest.from_bytes(content, step=6)
    texts = Manifest(step=6, files={}, texts={"checkpoints/6/x": ""}).to_bytes()
    with pytest.raises(ValueError, match="does not belong there"):
        Manifest.from_bytes(texts, step=6)


def stored(address, folder):  # noqa: F811
    return RunConfig(name="x", folder=address, local_folder=str(folder), checkpoint=KEEP_TWO)


@pytest.fixture
def memory(servers, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bucket_module, "SETTLE_SECONDS", 0.01)
    return f"{servers('memory')}/{tmp_path.name}/run"


def start(config, said=None):
    """Opens the mirror, as a run does, and returns the local steps."""
    with mirrored(config, print if said is None else said.append) as mirror:
        assert mirror is not None
        return steps_there(config.run_folder / "checkpoints")


def saving(config, *steps):
    (config.run_folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    with mirrored(config, print) as mirror:
        for step in steps:
            save(mirror, config.run_folder, step)
            for name in ("config.json", "record.json"):
                (config.run_folder / name).write_text(name)


def test_object_storage_decides_what_a_start_goes_on_from(memory, tmp_path):
    here, there = stored(memory, tmp_path / "here"), stored(memory, tmp_path / "there")
    saving(here, 2)
    assert start(there) == [2]
    saving(there, 4)
    # This machine has gone on by itself, too, and was killed before it copied anything.
    make_save(here.run_folder, 6)
    said = []
    assert start(here, said) == [2, 4]
    assert "deleting checkpoints that are not those of" in "".join(said) and "[6]" in "".join(said)
    # A local save that follows from the newest one is not lost.
    make_save(here.run_folder, 8)
    assert start(here) == [2, 4, 8]
    assert start(there)[-1] == 8 and visible_steps(Bucket(memory).sizes()) == [4, 8]


def test_a_local_file_that_has_rotted_is_fetched_again(memory, tmp_path):
    here = stored(memory, tmp_path / "here")
    saving(here, 2)
    path = here.run_folder / "checkpoints" / "2" / "params" / "values"
    path.write_text("rotten")
    assert start(here) == [2] and path.read_text() == "values of 2"


def test_folders_that_are_no_copy_are_refused(memory, tmp_path):
    here, other = stored(memory, tmp_path / "here"), stored(f"{memory}2", tmp_path / "here")
    saving(here, 2)
    with pytest.raises(ValueError, match=r"is the local copy of .*, not of"):
        start(other)
    make_save(tmp_path / "alien", 2)
    with pytest.raises(ValueError, match="is not a copy of"):
        start(stored(memory, tmp_path / "alien"))
    bucket = Bucket(memory)
    bucket.delete(*bucket.sizes())
    with pytest.raises(ValueError, match="holds no checkpoint any more"):
        start(here)
    with leased(bucket, "is being trained", seconds=0.5, notify=print), pytest.raises(LeaseHeldError):
        start(here)


def test_several_processes_need_a_local_folder_that_all_see(tmp_path, monkeypatch):
    monkeypatch.setattr("lmjax.train.mirrored.jax.process_count", lambda: 2)
    monkeypatch.setattr("lmjax.train.mirrored.is_primary", lambda: False)
    monkeypatch.setattr("lmjax.train.mirrored.from_primary", lambda _: 12)
    run = stored("memory://bucket/several", tmp_path)
    with pytest.raises(ValueError, match="does not see .*needs --local-folder on a file system that all"):
        start(run)
    (tmp_path / ".shared").write_text("12")
    with mirrored(run, print) as mirror:
        assert mirror is None


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"folder": "runs/x", "local_folder": "y"}, "is no address of object storage"),
        ({"folder": "az://x/y"}, "mount the bucket"),
        ({"folder": "s3://x/y", "local_folder": "gs://x/y"}, "local_folder=gs://x/y"),
    ],
)
def test_addresses_and_folders_go_together(folders, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(name="x", **folders)


@pytest.fixture
def written(memory, tmp_path, monkeypatch):
    """The address of a run with the saves 2, 4 (the best) and 6, which this machine has no copy of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = stored(memory, tmp_path / "here")
    run.run_folder.mkdir()
    (run.run_folder / "metrics.jsonl").write_text('{"step": 6, "train/loss": 1.5}\n')
    keep_three = dataclasses.replace(run, checkpoint=CheckpointConfig(keep_last=3))
    with mirrored(keep_three, print) as mirror:
        for step in (2, 4, 6):
            make_save(run.run_folder, step)
            write_best(run.run_folder / "checkpoints", Best(4, 1.0))
            mirror.describe(step, texts_of(run, Record(data=(), batch_sizes=((0, 1),), last_saved=step)))
            mirror.push(step)
    shutil.rmtree(run.run_folder)
    return memory


@pytest.mark.parametrize(("step", "found"), [(None, [4, 6]), (2, [2]), ("best", [4]), ("none", [])])
def test_a_command_gets_the_checkpoint_that_it_needs(written, step, found):
    folder = local_run(pathlib.Path(written), step, say=print)
    assert steps_there(folder / "checkpoints") == found
    assert read_config(folder / "config.json").folder == written
    assert (folder / "metrics.jsonl").exists()
    # A second command finds the files there.
    assert local_run(pathlib.Path(written), step, say=pytest.fail) == folder


def test_what_is_not_there_is_said(written):
    with pytest.raises(ValueError, match=r"no checkpoint of step 3 in memory.*there are \[2, 4, 6\]"):
        local_run(pathlib.Path(written), 3)
    with pytest.raises(ValueError, match="there is no run there"):
        local_run(pathlib.Path(f"{written}/nothing"))
    Bucket(written).write("checkpoints/4/params/values", b"other")
    with pytest.raises(CheckpointError, match=r"step best in memory.* is damaged"):
        local_run(pathlib.Path(written), "best")


def test_checkpoints_are_named_as_in_a_folder(written):
    folder, step = split_checkpoint(f"{written}/checkpoints/2")
    assert step == 2 and steps_there(folder / "checkpoints") == [2]
    assert step_before(pathlib.Path(written), 6) == 4 and step_before(pathlib.Path(written), 2) == "none"
    assert split_checkpoint("runs/x/checkpoints/best") == (pathlib.Path("runs/x"), "best")


def test_commands_list_runs_and_write_only_to_file_systems(written, capsys):
    runs.run([written.rpartition("/")[0], "--json"])
    with leased(Bucket(written), "is being trained"):
        runs.run([written.rpartition("/")[0], "--json"])
    stopped, running = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert stopped["train_loss"] == 1.5 and stopped["step"] == 6 and stopped["state"] == "stopped"
    assert running["state"] == "running" and running["changed_at"] == stopped["changed_at"]
    options = parse_arguments(PlotArguments, [written], command="plot", runs=("runs",), fetch=without_checkpoint)
    assert (options.runs[0] / "metrics.jsonl").exists()
    with pytest.raises(ValueError, match="output=memory:.*: only paths of local"):
        parse_arguments(PlotArguments, [written, "--output", f"{written}/x.png"], command="plot", runs=("runs",))


@pytest.mark.run
def test_a_run_goes_on_from_object_storage_on_another_machine(memory, tmp_path, capsys):
    write_corpus(tmp_path / "text")
    base = with_train(config(tmp_path, checkpoint=KEEP_TWO), steps=6, eval_every=0)
    first, second = (
        dataclasses.replace(base, folder=memory, local_folder=str(tmp_path / name)) for name in ("first", "second")
    )
    bucket = Bucket(memory)
    with on_one_device():
        train(first)
        assert visible_steps(bucket.sizes()) == [4, 6]
        assert (tmp_path / "first" / "metrics.jsonl").read_bytes() == bucket.read("metrics.jsonl")
        # As if the machine was lost before the last save was visible.
        bucket.delete(manifest_name(6))
        train(second)
    assert "continuing after step 4 of 6" in capsys.readouterr().out
    assert numbers(tmp_path / "second") == numbers(tmp_path / "first")
    record = json.loads(Manifest.from_bytes(bucket.read(manifest_name(6)), step=6).texts["record.json"])
    assert record["last_saved"] == 6 and visible_steps(bucket.sizes()) == [4, 6]
