"""The manifest of a prepared folder: a JSON file that names its shards, with their sizes and checksums.

Every field of the file is checked before it is used.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Any

import numpy as np

from lmjax.atomic_files import write_json
from lmjax.data.tally import Tally

FORMAT = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "valid")
BOUND_DTYPE = np.dtype("<i8")
WEIGHT_DTYPE = np.dtype("<f2")

_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_IDS = 1 << 32


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Returns the narrowest type for the ids of a vocabulary: uint16 for up to 65,536 ids, else uint32."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """The size in bytes and the sha256 (hex) of a file."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """The entry of one shard; ``text_bytes`` counts the UTF-8 bytes of its documents' text."""

    name: str
    split: str
    tokens: int
    documents: int
    text_bytes: int
    files: dict[str, FileRecord]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a prepared folder.

    Attributes:
      dtype: numpy name of the token type.
      weighted: whether ``.wts`` files lie beside the tokens.
      vocabulary_size: ids are below this.
      pad_id: the id that fills packed rows; 0 when the tokenizer has no padding token.
      tokenizer_fingerprint: fingerprint of the tokenizer that made the ids.
      settings: the fields of the data config that determined the content.
      source: path, number of files and bytes, and fingerprint of the corpus that was read.
      shards: the shards in the order of the stream.
      empty_documents: documents without text, which are left out.
      undecodable: bytes that were not UTF-8, by file name.
      formats: number of files of each format.
      bad_records: records that could not be read and were left out.
      bad_places: file and line of the first of them.
      text_files: number of text files that should be divided by a separator.
      separated_files: number of those in which the separator occurs.
    """

    dtype: str
    weighted: bool
    vocabulary_size: int
    pad_id: int
    tokenizer_fingerprint: str
    settings: dict
    source: dict
    shards: tuple[Shard, ...]
    empty_documents: int = 0
    undecodable: dict[str, int] = dataclasses.field(default_factory=dict)
    formats: dict[str, int] = dataclasses.field(default_factory=dict)
    bad_records: int = 0
    bad_places: tuple[str, ...] = ()
    text_files: int = 0
    separated_files: int = 0

    def total(self, split: str, quantity: str) -> int:
        """Returns the sum of ``"tokens"``, ``"documents"`` or ``"text_bytes"`` over the shards of a split."""
        return sum(getattr(shard, quantity) for shard in self.shards if shard.split == split)

    @property
    def notes(self) -> list[str]:
        """Remarks for a person on how the data were read, one sentence each."""
        read = ", ".join(f"{count:,} of {name}" for name, count in sorted(self.formats.items()))
        return [f"files read: {read}"] * bool(read) + Tally(
            undecodable=self.undecodable,
            bad_records=self.bad_records,
            bad_places=list(self.bad_places),
            text_files=self.text_files,
            separated_files=self.separated_files,
        ).notes

    @property
    def fingerprint(self) -> str:
        """Hex digest of the content; rows are a function of it, the seed, the row length and the index."""
        content = [self.dtype, [[shard.split, *_digests(shard)] for shard in self.shards]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def save(self, folder: pathlib.Path) -> None:
        """Writes ``manifest.json`` in one step."""
        write_json(folder / MANIFEST, {"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, folder: pathlib.Path | str) -> "Manifest":
        """Reads ``manifest.json``.

        Raises:
          ValueError: there is no manifest, or this version cannot read it.
        """
        path = pathlib.Path(folder) / MANIFEST
        try:
            content = read_json(path)
        except FileNotFoundError:
            raise ValueError(f"{path}: not found: make the shards first, with lmjax prepare") from None
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}): delete the folder and prepare the data again") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"{path}: not of format {FORMAT}: prepare the data again with this version")
        try:
            return _manifest_from_json(content)
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}): delete the folder and prepare the data again") from None


def _digests(shard: Shard) -> list[str]:
    return [shard.files[name].sha256 for name in sorted(shard.files)]


def _manifest_from_json(content: dict[str, Any]) -> Manifest:
    fields = {field.name: field for field in dataclasses.fields(Manifest)}
    if unknown := content.keys() - fields.keys():
        raise ValueError(f"unknown field {min(unknown)!r}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in content:
            raise ValueError(f"field {name!r} is missing")
    checked: dict[str, Any] = {}
    for name, value in content.items():
        if name in ("vocabulary_size", "pad_id", "empty_documents", "bad_records", "text_files", "separated_files"):
            checked[name] = _count(value, name)
        elif name == "weighted":
            checked[name] = _of(bool, value, name)
        elif name in ("settings", "source"):
            checked[name] = _of(dict, value, name)
        elif name in ("undecodable", "formats"):
            checked[name] = {key: _count(n, name) for key, n in _of(dict, value, name).items()}
        elif name == "bad_places":
            checked[name] = tuple(_of(str, place, name) for place in _of(list, value, name))
        elif name == "shards":
            checked[name] = tuple(map(shard_from_json, _of(list, value, name)))
        else:
            checked[name] = _of(str, value, name)
    manifest = Manifest(**checked)
    _check_consistent(manifest)
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    size = manifest.vocabulary_size
    if not 0 < size <= _MOST_IDS or manifest.dtype != token_dtype(size).name:
        raise ValueError(f"vocabulary_size={size} and dtype={manifest.dtype!r} do not go together")
    if manifest.pad_id >= size:
        raise ValueError(f"pad_id={manifest.pad_id} is beyond the vocabulary of {size}")
    members = manifest.settings.get("members", ())
    if not isinstance(members, list | tuple) or not all(isinstance(member, str) for member in members):
        raise ValueError(f"settings: members is {members!r}")
    names = [shard.name for shard in manifest.shards]
    if len(set(names)) < len(names):
        raise ValueError("a shard is named twice")
    for shard in manifest.shards:
        sizes = {
            f"{shard.name}.bin": shard.tokens * token_dtype(size).itemsize,
            f"{shard.name}.idx": (shard.documents + 1) * BOUND_DTYPE.itemsize,
        }
        if manifest.weighted:
            sizes[f"{shard.name}.wts"] = shard.tokens * WEIGHT_DTYPE.itemsize
        if (ids := f"{shard.name}.ids") in shard.files and "id_field" in manifest.settings:
            sizes[ids] = shard.files[ids].size
        if {name: record.size for name, record in shard.files.items()} != sizes:
            raise ValueError(f"the files of shard {shard.name} are not those of its {shard.tokens} tokens")
        if shard.documents % max(len(members), 1):
            raise ValueError(f"shard {shard.name} begins within an example")


def shard_from_json(content: Any) -> Shard:
    """The inverse of ``dataclasses.asdict`` for a :class:`Shard`.

    Raises:
      ValueError: a field is missing, unknown or of another type, or a name leads out of the folder.
    """
    fields = _fields(Shard, content, "a shard")
    name, split = _of(str, fields["name"], "a shard's name"), fields["split"]
    if not _SHARD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a shard")
    if split not in SPLITS:
        raise ValueError(f"shard {name}: split is {split!r}")
    files = {}
    for file, record in _of(dict, fields["files"], f"shard {name}: files").items():
        record = _fields(FileRecord, record, f"file {file!r}")
        sha256 = _of(str, record["sha256"], f"file {file!r}: sha256")
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"file {file!r}: sha256 is {sha256[:80]!r}")
        files[file] = FileRecord(size=_count(record["size"], f"file {file!r}: size"), sha256=sha256)
    counts = {key: _count(fields[key], f"shard {name}: {key}") for key in ("tokens", "documents", "text_bytes")}
    if not 0 < counts["documents"] <= counts["tokens"]:
        raise ValueError(f"shard {name}: {counts['documents']} documents of {counts['tokens']} tokens")
    return Shard(name=name, split=split, files=files, **counts)


def _fields(kind: type, content: Any, what: str) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    if _of(dict, content, what).keys() != names:
        raise ValueError(f"{what} has the fields {sorted(map(str, content))[:8]}, not {sorted(names)}")
    return content


def _of(kind: type, value: Any, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {str(value)[:80]!r}, not of type {kind.__name__}")
    return value


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"{name} is {str(value)[:80]!r}, not a count")
    return value


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # Invalid UTF-8, numbers with too many digits and too deep nesting raise other errors than invalid JSON.
        raise ValueError("not JSON") from error
