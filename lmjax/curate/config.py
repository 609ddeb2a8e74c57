"""The configuration of a curation: where the raw text is, and the rules it goes through."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from lmjax.curate.duplicates import Duplicates
from lmjax.curate.rule import Rule
from lmjax.data.config import DataConfig
from lmjax.field_types import check_literals
from lmjax.naming import naming
from lmjax.parallel.paths import refuse_address

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawText:
    """One source of raw text."""

    path: str
    """A file, a folder, a glob or an address, of the formats that `lmjax prepare` reads."""
    document_glob: str = "**/*"
    """Which files of a folder are read."""
    document_separator: str | None = None
    r"""Text that divides a text file into documents; \n, \r and \t may be typed. Without it each file is one."""
    text_field: str = "text"
    """Records: the field with the text; a nested one as message.text."""
    template: str | None = None
    r"""Records, in place of text_field: a text with fields in braces, such as "{title}\n\n{body}"."""
    id_field: str | None = None
    """Records: the field with the document's id; by default its file and its place there are the id."""
    url_field: str | None = None
    """Records: the field with the address of the page; a record may lack it."""
    kept_fields: tuple[str, ...] = ()
    """Records: further fields that are kept beside the text; a record may lack them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curation:
    """Raw text, the rules it goes through in their order, and the folder of the result."""

    sources: dict[str, RawText]
    """The raw text, by name; the result of each is a folder of this name below folder. Of a document that is in several
    sources, the copy in the first of them stays."""
    folder: str
    """The folder for the result: JSON lines compressed by zstandard, and the report."""
    rules: tuple[Rule, ...] = ()
    """The rules, in the order in which documents go through them."""
    examples: int = 3
    """How many documents the report shows for each reason."""
    decode_errors: Literal["replace", "strict"] = "replace"
    """Bytes that are not UTF-8: put U+FFFD in their place and count them, or refuse the record (see bad_records)."""
    max_undecodable: float = 0.01
    """Stop when more than this share of the bytes is not UTF-8."""
    bad_records: Literal["refuse", "skip"] = "refuse"
    """Records that cannot be read: stop at the first, or leave them out and count them."""
    max_record_bytes: int = 1 << 28
    """JSON: the largest size of a record in bytes; a longer one is a bad record."""
    max_expansion: float = 200.0
    """Stop when an archive expands to more than this many times its size (after the first 64 MiB)."""
    unit_bytes: int = 1 << 26
    """Bytes of input for each file of the result: the unit of parallel work and of resuming."""

    def __post_init__(self):
        check_literals(self, "")
        refuse_address("folder", self.folder)
        if not self.sources:
            raise ValueError("sources={}: name at least one source, as in sources={'web': RawText(path='web/*.jsonl')}")
        for name in self.sources:
            if not _NAME.fullmatch(name) or name == "work":
                raise ValueError(
                    f"sources: {name!r} names a folder: use letters, digits, _ . - (and another name than work)"
                )
        if not self.folder:
            raise ValueError('folder="": name the folder for the result')
        if self.unit_bytes < 1 or self.examples < 0:
            raise ValueError(
                f"unit_bytes={self.unit_bytes}, examples={self.examples}: give at least 1 byte, and 0 examples or more"
            )
        for name in self.sources:
            with naming(f"sources: {name}"):
                self.reading(name)

    def reading(self, name: str) -> DataConfig:
        """Returns how the documents of a source are read."""
        raw = self.sources[name]
        return DataConfig(
            path=raw.path,
            document_glob=raw.document_glob,
            document_separator=raw.document_separator,
            text_field=raw.text_field,
            template=raw.template,
            id_field=raw.id_field,
            decode_errors=self.decode_errors,
            max_undecodable=self.max_undecodable,
            bad_records=self.bad_records,
            max_record_bytes=self.max_record_bytes,
            max_expansion=self.max_expansion,
            shard_bytes=self.unit_bytes,
            valid_fraction=0.0,
        )

    def kept_fields(self, name: str) -> tuple[str, ...]:
        """Returns the fields of a source's records that are kept beside the text."""
        raw = self.sources[name]
        return tuple(dict.fromkeys((*filter(None, (raw.url_field,)), *raw.kept_fields)))

    @property
    def stages(self) -> tuple[Sequence[int], ...]:
        """The numbers of the rules, stage by stage: a rule that compares all documents ends a stage, and is its last.

        The last stage has no such rule.
        """
        stages: list[list[int]] = [[]]
        for number, rule in enumerate(self.rules):
            stages[-1].append(number)
            if isinstance(rule, Duplicates):
                stages.append([])
        return tuple(stages)
