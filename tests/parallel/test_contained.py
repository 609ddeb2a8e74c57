"""Names and links in folders of strangers lead to files of these folders only."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmjax.interop.tensors import INDEX, SINGLE, Weights
from lmjax.parallel.contained import copy_inside, file_inside
from lmjax.parallel.distributed import bind_address
from lmjax.tokenizers import load_tokenizer
from lmjax.tokenizers.byte import ByteTokenizer


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\\b", "a\0b"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="no name of a file in it"):
        file_inside(tmp_path, name)


@pytest.fixture
def folders(tmp_path):
    """A secret file, and the folder of a stranger."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder").mkdir()
    return tmp_path / "secret", tmp_path / "folder"


def test_links_are_followed_within_the_folder_and_to_the_blobs_of_the_hub_only(folders):
    secret, folder = folders
    (folder / "real").write_text("text")
    (folder / "link").symlink_to("real")
    assert file_inside(folder, "link").read_text() == "text"
    (folder / "out").symlink_to(secret)
    with pytest.raises(ValueError, match="is a link to a file outside of the folder"):
        file_inside(folder, "out")
    os.mkfifo(folder / "pipe")  # Reading it would wait for ever.
    with pytest.raises(ValueError, match="is not a regular file"):
        file_inside(folder, "pipe")
    snapshot, blobs = folder / "snapshots" / "abc", folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("blob")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    assert file_inside(snapshot, "config.json").read_text() == "blob"


def test_no_copy_takes_a_secret_along(folders, tmp_path):
    secret, folder = folders
    (folder / "templates").mkdir()
    (folder / "templates" / "one.jinja").write_text("template")
    (tmp_path / "target").mkdir()
    copy_inside(folder, tmp_path / "target", "templates")
    assert (tmp_path / "target" / "templates" / "one.jinja").read_text() == "template"
    (folder / "templates" / "two.jinja").symlink_to(secret)
    (folder / "keys").symlink_to(tmp_path, target_is_directory=True)
    for name, words in (("templates", "outside of the folder"), ("keys", "a link to a folder")):
        with pytest.raises(ValueError, match=words):
            copy_inside(folder, tmp_path / "target", name)


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "part/x.safetensors", 3, None])
def test_an_index_of_weights_names_files_of_its_folder_only(folders, file):
    _, folder = folders
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(ValueError, match="no name of a file in it|not an index of safetensors"):
        Weights(folder)


def test_weights_may_not_be_links_out_nor_have_absurd_headers(folders, tmp_path):
    _, folder = folders
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "elsewhere.safetensors")
    (folder / SINGLE).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ValueError, match="outside of the folder"):
        Weights(folder)
    (folder / SINGLE).unlink()
    huge = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}}).encode()
    reaching = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1000]}}).encode()
    for content in (
        (1 << 62).to_bytes(8, "little") + b"{}",
        len(huge).to_bytes(8, "little") + huge,
        len(reaching).to_bytes(8, "little") + reaching + bytes(16),
    ):
        (folder / SINGLE).write_bytes(content)
        with pytest.raises(ValueError, match="is not safetensors, or damaged"):
            Weights(folder)


def test_a_tokenizer_may_not_be_a_link_out(folders):
    secret, folder = folders
    ByteTokenizer({}).save(folder / "tokenizer")
    metadata = folder / "tokenizer" / "lmjax_tokenizer.json"
    (folder / "tokenizer" / "x").symlink_to(secret)
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"files": {"x": "0" * 64}}))
    with pytest.raises(ValueError, match="outside of the folder"):
        load_tokenizer(folder / "tokenizer")


def test_the_coordinator_listens_on_its_own_address_only():
    assert bind_address("127.0.0.1:1234") == "127.0.0.1:1234"
    assert bind_address("localhost:1234") in ("127.0.0.1:1234", "[::1]:1234")
    # An address of another machine, a name that nobody has, and no name at all.
    assert bind_address("192.0.2.1:1234") is None
    assert bind_address("no-such-host.invalid:1234") is None
    assert bind_address(None) is None
