"""The object that makes a save in object storage visible: a list of its files with their checksums.

``saves/STEP.json`` is written after all other objects of a save. It also holds the small files that describe the state
(``config.json``, ``record.json``, ``best.json``), so that they change together with the newest save.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

FORMAT = 1
SAVES = "saves"
_VISIBLE = re.compile(rf"{SAVES}/(\d+)\.json")
_HIDDEN = re.compile(rf"{SAVES}/(\d+)\.corrupt\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"[^/\\\0]+")
KNOWN_TEXTS = ("config.json", "record.json", "checkpoints/best.json")
KNOWN_FOLDERS = ("tokenizer", "published")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of a save.

    Attributes:
      step: the step of the checkpoint.
      files: the SHA-256 sum of each file, by its name in the run folder.
      texts: the contents of the small files that describe the state, by their names in the run folder.
    """

    step: int
    files: Mapping[str, str]
    texts: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Returns the content of the object, with a checksum of itself."""
        content = {"format": FORMAT, "step": self.step, "files": dict(self.files), "texts": dict(self.texts)}
        return (json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, step: int) -> "Manifest":
        """Reads the content of the object.

        Args:
          content: the bytes.
          step: the step that the object's name says.

        Raises:
          ValueError: it is damaged, of a later format, or names a file that is not one of this step.
        """
        try:
            found: Any = json.loads(content)
            digest, number = found.pop("sha256"), found["format"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError("it is not a list of the files of a save") from None
        if digest != _digest(found):
            raise ValueError("it differs from its checksum")
        if number != FORMAT:
            raise ValueError(f"it has format {number}, this version reads {FORMAT}: use a newer version of lmjax")
        files, texts = found.get("files"), found.get("texts")
        if found.get("step") != step or not isinstance(files, dict) or not isinstance(texts, dict):
            raise ValueError("it is not a list of the files of this step")
        for name, own in files.items():
            if not _is_of(step, name) or not isinstance(own, str) or not _DIGEST.fullmatch(own):
                raise ValueError(f"it names {name!r}, which is no file of this step: do not trust it")
        for name, text in texts.items():
            if name not in KNOWN_TEXTS or not isinstance(text, str):
                raise ValueError(f"it holds {name!r}, which does not belong there: do not trust it")
        return cls(step=step, files=files, texts=texts)


def manifest_name(step: int) -> str:
    """Returns the name of the object that makes a step visible."""
    return f"{SAVES}/{step}.json"


def hidden_name(step: int) -> str:
    """Returns the name that this object gets when its step is found damaged."""
    return f"{SAVES}/{step}.corrupt.json"


def hidden_steps(names: Mapping[str, Any]) -> list[int]:
    """Returns the steps that were found damaged, by the names of all objects."""
    return sorted(int(match[1]) for match in map(_HIDDEN.fullmatch, names) if match)


def visible_steps(names: Mapping[str, Any]) -> list[int]:
    """Returns the steps that are visible, in ascending order, by the names of all objects."""
    return sorted(int(match[1]) for match in map(_VISIBLE.fullmatch, names) if match)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_of(step: int, name: str) -> bool:
    words = name.split("/")
    if not all(_PLAIN.fullmatch(word) and word not in (".", "..") for word in words):
        return False
    return words[:2] == ["checkpoints", str(step)] or words[0] in KNOWN_FOLDERS
