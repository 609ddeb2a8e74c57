"""Whatever happened to a file of a prepared folder: used as it was, made again, or a ``ValueError`` that names it."""

import json
import random
import shutil

import pytest

from lmjax.data.config import DataConfig
from lmjax.data.prepare.prepare import prepare
from lmjax.data.rows.opening import open_rows

WRONG = (None, True, -1, 1.5, 10**30, "x", "../x", "/etc/passwd", [], {}, [[]], {"a": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, request):
    from lmjax.tokenizers.byte import ByteTokenizer

    folder = tmp_path_factory.mktemp("whole")
    records = [{"q": "ask", "text": f"answer {n}" * (n % 3 + 1)} for n in range(40)]
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = DataConfig(
        path=str(folder / "a.jsonl"), prompt_field="q", packing="best_fit", valid_fraction=0.3, shard_bytes=500
    )
    tokenizer = ByteTokenizer({"<pad>": 256, "<eos>": 257})
    prepare(config, tokenizer, folder / "data", num_workers=1)
    read(config, folder / "data")
    return config, tokenizer, folder / "data"


def read(config, folder):
    for split in ("train", "valid"):
        rows = open_rows(config, split, row_length=16, seed=0, folder=folder)
        rows.rows(range(len(rows)))


def survives(whole, folder):
    """Whether reading and preparing either work, or end in a message for people."""
    config, tokenizer, _ = whole
    for use in (lambda: read(config, folder), lambda: prepare(config, tokenizer, folder, num_workers=1)):
        try:
            use()
        except ValueError as error:
            assert str(folder) in str(error) or "data." in str(error), error
    return True


def places(content, path=()):
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(content, path, value, *, remove=False):
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", ["manifest.json", "verified.json"])
def test_json_with_fields_of_other_types_or_none(whole, tmp_path, name):
    folder = shutil.copytree(whole[2], tmp_path / "data")
    content = json.loads((folder / name).read_text())
    rng = random.Random(0)
    for path in rng.sample(list(places(content)), 40):
        for value in rng.sample(WRONG, 3):
            (folder / name).write_text(json.dumps(changed(content, path, value)))
            assert survives(whole, folder)
        (folder / name).write_text(json.dumps(changed(content, path, None, remove=True)))
        assert survives(whole, folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1, "shards": ' + "9" * 5000 + "}", "\x00", "", "7", "[]", "null"]
)
def test_json_that_is_none(whole, tmp_path, text):
    for name in ("manifest.json", "verified.json"):
        folder = shutil.copytree(whole[2], tmp_path / name)
        (folder / name).write_text(text)
        assert survives(whole, folder)


def test_files_cut_and_with_a_bit_turned(whole, tmp_path):
    rng = random.Random(0)
    names = [str(path.relative_to(whole[2])) for path in sorted(whole[2].rglob("*")) if path.is_file()]
    for name in names:
        content = (whole[2] / name).read_bytes()
        for number in range(3 if content else 0):
            folder = shutil.copytree(whole[2], tmp_path / f"{name.replace('/', '-')}-{number}")
            place = rng.randrange(len(content))
            flipped = content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
            (folder / name).write_bytes(content[:place] if number == 0 else flipped)
            assert survives(whole, folder)


def test_a_damaged_packing_plan_is_made_again(whole, tmp_path):
    folder = shutil.copytree(whole[2], tmp_path / "data")
    expected = open_rows(whole[0], "train", row_length=16, seed=0, folder=folder).rows(range(5))
    (plan,) = (folder / "packing").glob("train-*")
    (plan / "starts").write_bytes(bytes(8))
    again = open_rows(whole[0], "train", row_length=16, seed=0, folder=folder).rows(range(5))
    assert (again.tokens_BT == expected.tokens_BT).all()


def test_nothing_outside_of_the_folder_is_named(whole, tmp_path):
    folder = shutil.copytree(whole[2], tmp_path / "data")
    (folder / "train-00000.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "train-00000.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ValueError, match="train-00000.bin: a link to a file outside of the folder"):
        read(whole[0], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("../x", "/etc/passwd", "a/b", ""):
        (folder / "manifest.json").write_text(json.dumps(changed(manifest, ("shards", 0, "name"), name)))
        with pytest.raises(ValueError, match="is no name of a shard"):
            read(whole[0], folder)


def test_a_setting_that_is_not_there_was_not_used(whole, tmp_path):
    """What a version wrote that did not know the field yet."""
    folder = shutil.copytree(whole[2], tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["settings"]["weight_field"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    prepare(whole[0], whole[1], folder)
    del manifest["settings"]["prompt_field"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"another data.prompt_field \(None, now 'q'\)"):
        prepare(whole[0], whole[1], folder)


def test_ids_beyond_the_vocabulary_are_named(whole, tmp_path):
    folder = shutil.copytree(whole[2], tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"vocabulary_size": 100, "pad_id": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"train-0000\d.bin .*holds id \d+, beyond the vocabulary of 100"):
        read(whole[0], folder)


def test_a_preparation_that_was_stopped_and_damaged_is_done_again(whole, tmp_path):
    config, tokenizer, folder = whole
    for text in ("[]", "{", "7", '{"shards": [], "tally": {}, "empty_documents": 0}'):
        other = tmp_path / str(len(text))
        (other / "entries").mkdir(parents=True)
        (other / "plan.json").write_text(text)
        (other / "entries" / "00000.json").write_text(text)
        assert prepare(config, tokenizer, other, num_workers=1).shards == prepare(config, tokenizer, folder).shards


@pytest.mark.parametrize("name", ["lr[1e-3]", "a b*?", "zwei\nZeilen", "Wörter 川", "'\"\\"])
def test_folders_of_any_name(whole, tmp_path, name):
    config, tokenizer, _ = whole
    prepare(config, tokenizer, tmp_path / name, num_workers=1)
    read(config, tmp_path / name)
    assert survives(whole, tmp_path / name)
