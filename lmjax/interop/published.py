"""Keeps the other files of a published folder, beside its weights, with the run made of it, for use at export.

No run of lmjax uses these files. They hold what only other programs read (chat templates, generation
settings, the list of ids that end a text), and the tokenizer in the form that its users know.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from lmjax.atomic_files import write_json
from lmjax.interop.hf_config import read_json
from lmjax.interop.surplus_tokens import without_surplus
from lmjax.interop.tokenizer_files import load_tokenizer_files
from lmjax.parallel.contained import copy_inside
from lmjax.tokenizers import Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model",
    "vocab.json", "merges.txt", "vocab.txt", "additional_chat_templates",
)  # fmt: skip
_ID_ROLES = ("bos", "eos", "pad", "cls", "sep", "decoder_start")


@dataclasses.dataclass(frozen=True)
class Published:
    """The kept files of a published folder, and its configuration.

    Attributes:
      folder: where the files lie.
      config: the content of config.json.
      has_tokenizer: whether the tokenizer in the folder is the run's.
    """

    folder: pathlib.Path
    config: Mapping[str, Any]
    has_tokenizer: bool

    @property
    def ids(self) -> dict[str, Any]:
        """The special ids of config.json, by role; a value is a list where several ids end a text."""
        found = {role: self.config.get(f"{role}_token_id") for role in _ID_ROLES}
        return {role: value for role, value in found.items() if value is not None}

    @property
    def generation(self) -> dict[str, Any] | None:
        """The generation settings of the folder; None if it has none."""
        path = self.folder / GENERATION
        return read_json(path) if path.exists() else None

    @property
    def tokenizer_config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json; empty if there is no such file."""
        path = self.folder / "tokenizer_config.json"
        return read_json(path) if path.exists() else {}

    def copy_tokenizer(self, folder: pathlib.Path) -> None:
        """Copies the tokenizer's files to another folder, unchanged."""
        _copy(self.folder, folder, _TOKENIZER_FILES)

    def copy_chat_template(self, folder: pathlib.Path) -> None:
        """Copies the files that hold only a chat template."""
        _copy(self.folder, folder, [name for name in _TOKENIZER_FILES if "chat_template" in name])


def keep_published(source: pathlib.Path, folder: pathlib.Path, config: Mapping[str, Any], *, tokenizer: bool) -> None:
    """Copies the files of a published folder that are worth keeping.

    Args:
      source: the published folder.
      folder: the folder to write to, which is created.
      config: the content of its config.json; for a model of text and images, the part about the text model.
      tokenizer: whether the run uses the tokenizer found there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config, indent=2)
    _copy(source, folder, (GENERATION, *_TOKENIZER_FILES) if tokenizer else (GENERATION,))


def read_published(folder: pathlib.Path, tokenizer: Tokenizer) -> Published | None:
    """Returns what :func:`keep_published` wrote; None where a run was not made of a published folder.

    Args:
      folder: the folder that :func:`keep_published` wrote to.
      tokenizer: the run's tokenizer.

    Raises:
      ValueError: a file there is damaged.
    """
    if not (folder / CONFIG).exists():
        return None
    config = read_json(folder / CONFIG)
    try:
        theirs, _ = without_surplus(load_tokenizer_files(folder, config), tokenizer.vocabulary.size)
        has_tokenizer = theirs.fingerprint == tokenizer.fingerprint
    except ValueError:
        has_tokenizer = False
    return Published(folder, config, has_tokenizer)


def _copy(source: pathlib.Path, folder: pathlib.Path, names: Iterable[str]) -> None:
    for name in names:
        copy_inside(source, folder, name)
