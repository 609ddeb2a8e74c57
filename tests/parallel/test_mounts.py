import json
import pathlib

import pytest

from lmjax.parallel import mounts
from lmjax.parallel.mounts import locks_reach
from lmjax.remote.lease import LeaseHeldError, leased
from lmjax.train import run_folder
from lmjax.train.run_folder import LEASE_FILE, held

LINE = "36 35 0:46 / {point} rw,relatime shared:1 - {kind} server:/x rw,{options}\n"


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Makes the system say that a folder is mounted from elsewhere."""

    def mount(kind: str, options: str = "") -> pathlib.Path:
        folder = tmp_path / "mounted here"
        folder.mkdir()
        text = "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        text += LINE.format(point=str(folder).replace(" ", r"\040"), kind=kind, options=options)
        (tmp_path / "mountinfo").write_text(text)
        monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
        return folder

    return mount


@pytest.mark.parametrize(
    ("kind", "options", "reach"),
    [
        ("ext4", "", True),
        ("nfs4", "vers=4.2,local_lock=none", True),
        ("nfs", "vers=3,nolock,local_lock=all", False),
        ("nfs", "vers=3,local_lock=none", True),
        ("fuse.gcsfuse", "user_id=0", False),
        ("fuse", "", False),
        ("lustre", "flock,lazystatfs", True),
        ("lustre", "localflock", False),
        ("virtiofs", "", False),
    ],
)
def test_whether_a_lock_reaches_other_machines(mounted, kind, options, reach):
    folder = mounted(kind, options)
    assert locks_reach(folder / "runs" / "a") == reach
    assert locks_reach(folder.parent)


def test_where_a_lock_does_not_reach_a_run_holds_a_lease(mounted, monkeypatch):
    folder = mounted("fuse.gcsfuse")
    with held(folder):
        assert json.loads((folder / LEASE_FILE).read_text())["doing"] == "is being trained"
    assert not (folder / LEASE_FILE).exists()
    other = run_folder.Folder(folder)
    with (
        leased(other, "is being trained", seconds=0.6, name=LEASE_FILE, notify=lambda _: None),
        pytest.raises(LeaseHeldError, match="is being trained by process"),
        held(folder),
    ):
        pass


def test_where_files_cannot_be_replaced_the_run_is_warned(mounted, monkeypatch, capsys):
    folder = mounted("fuse.mount-s3")

    def refuse(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("lmjax.remote.bucket.os.link", refuse)
    with held(folder):
        pass
    assert "warning: no lease can be held" in capsys.readouterr().err
