"""The folder a tokenizer is saved to: its files, and a JSON file with its kind and the checksums of the files."""

import hashlib
import json
import pathlib
from collections.abc import Mapping

from lmjax.atomic_files import write_file, write_json
from lmjax.parallel.contained import file_inside

METADATA = "lmjax_tokenizer.json"
_FORMAT = 1
_TYPES = {"format": int, "kind": str, "special_tokens": dict, "files": dict, "fingerprint": str}


def write_folder(folder: pathlib.Path, metadata: Mapping[str, object], files: Mapping[str, bytes]) -> None:
    """Writes ``files``, then the metadata (``kind``, ``special_tokens``, ``fingerprint``) in one atomic step.

    Raises:
      ValueError: the folder holds another tokenizer.
    """
    if (folder / METADATA).exists():
        held = _read_metadata(folder)["fingerprint"]
        if held != metadata["fingerprint"]:
            raise ValueError(f"{folder} holds another tokenizer ({held[:12]}): choose another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(folder / name, content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write_json(folder / METADATA, {"format": _FORMAT, **metadata, "files": digests}, ensure_ascii=False)


def read_folder(folder: pathlib.Path) -> tuple[dict, dict[str, bytes]]:
    """Returns the metadata, and the content of each file that it lists.

    Raises:
      ValueError: the folder has no tokenizer, or a file is missing, was changed or is outside of the folder.
    """
    metadata = _read_metadata(folder)
    return metadata, {
        name: _read_checked(file_inside(folder, name), digest) for name, digest in metadata["files"].items()
    }


def _read_metadata(folder: pathlib.Path) -> dict:
    path = folder / METADATA
    again = "restore it, or train the tokenizer again"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} does not exist: train a tokenizer there, or correct the path") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): {again}") from None
    if not _well_formed(metadata):
        raise ValueError(f"{path} is not a tokenizer's metadata: {again}")
    if metadata["format"] != _FORMAT:
        raise ValueError(f"{path}: format {metadata['format']}, not {_FORMAT}: use the lmjax that wrote it")
    return metadata


def _well_formed(metadata: object) -> bool:
    """Returns whether every field has its type, and every file's name stays within the folder."""
    if not isinstance(metadata, dict):
        return False
    return (
        all(type(metadata.get(name)) is kind for name, kind in _TYPES.items())
        and all(type(token_id) is int and 0 <= token_id < 2**31 for token_id in metadata["special_tokens"].values())
        and all(name == pathlib.Path(name).name for name in metadata["files"])
        and all(isinstance(digest, str) for digest in metadata["files"].values())
    )


def _read_checked(path: pathlib.Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: restore it, or train the tokenizer again") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is damaged (sha256 not as recorded): restore it, or train the tokenizer again")
    return content
