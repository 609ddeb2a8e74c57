"""Counts of what was found while documents were read, the first bad records, and notes for people."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

from lmjax.data.config import DataConfig

FIRST_PLACES = 5
"""Number of bad records that are described; the others are only counted."""
_ENOUGH_BYTES = 1 << 20


@dataclasses.dataclass(kw_only=True)
class Tally:
    """The counts of reading one or more units of input; tallies can be added.

    Attributes:
      content_bytes: number of bytes of content.
      undecodable: number of bytes that were not UTF-8 and were replaced, by file name.
      bad_records: number of records that were left out.
      bad_places: the place and the problem of the first of them.
      text_files: number of text files that should be divided by the separator.
      separated_files: number of those in which the separator occurs.
    """

    content_bytes: int = 0
    undecodable: dict[str, int] = dataclasses.field(default_factory=dict)
    bad_records: int = 0
    bad_places: list[str] = dataclasses.field(default_factory=list)
    text_files: int = 0
    separated_files: int = 0

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Tally":
        """The inverse of ``dataclasses.asdict``.

        Raises:
          ValueError: a field is missing, unknown or of another type.
        """
        empty = dataclasses.asdict(cls())
        same = isinstance(content, dict) and content.keys() == empty.keys()
        if not same or any(type(content[name]) is not type(value) for name, value in empty.items()):
            raise ValueError("not a tally")
        counts, places = content["undecodable"].values(), content["bad_places"]
        if not all(isinstance(n, int) for n in counts) or not all(isinstance(place, str) for place in places):
            raise ValueError("not a tally")
        return cls(**content)

    def add(self, other: "Tally") -> None:
        """Adds the counts of another unit."""
        for name in ("content_bytes", "bad_records", "text_files", "separated_files"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.undecodable = dict(collections.Counter(self.undecodable) + collections.Counter(other.undecodable))
        self.bad_places = (self.bad_places + other.bad_places)[:FIRST_PLACES]

    def bad_record(self, config: DataConfig, describe: Callable[[], str]) -> None:
        """Counts a record that cannot be read.

        Raises:
          ValueError: ``data.bad_records`` is "refuse".
        """
        if config.bad_records == "refuse":
            raise ValueError(f"{describe()} (data.bad_records=skip leaves out such records)")
        self.bad_records += 1
        if len(self.bad_places) < FIRST_PLACES:
            self.bad_places.append(describe())

    def replaced(self, name: str, num_bytes: int) -> None:
        """Counts bytes that were not UTF-8."""
        if num_bytes:
            self.undecodable[name] = self.undecodable.get(name, 0) + num_bytes

    def check_unit(self, config: DataConfig) -> None:
        """Refuses a unit of input in which too many bytes are not UTF-8, unless it is small.

        Raises:
          ValueError: too many bytes are not UTF-8.
        """
        if self.content_bytes >= _ENOUGH_BYTES:
            self._check_undecodable(config)

    def check(self, config: DataConfig) -> None:
        """Refuses a corpus that does not agree with the settings.

        Raises:
          ValueError: too many bytes are not UTF-8, or the separator occurs nowhere.
        """
        self._check_undecodable(config)
        if self.text_files and not self.separated_files:
            separator = config.separator
            typed = " (it holds a backslash: of typed line ends, \\n is read)" if "\\" in (separator or "") else ""
            raise ValueError(
                f"data.document_separator={separator!r} occurs in none of the {self.text_files} text files{typed}: "
                f"correct it, or leave it out to make each file one document"
            )

    def _check_undecodable(self, config: DataConfig) -> None:
        total = sum(self.undecodable.values())
        if total > config.max_undecodable * self.content_bytes:
            name = max(self.undecodable, key=self.undecodable.__getitem__)
            raise ValueError(
                f"{total:,} of {self.content_bytes:,} bytes are not UTF-8 ({self.undecodable[name]:,} of them in "
                f"{name}): over the limit data.max_undecodable={config.max_undecodable:g}: convert such files "
                f"(iconv -f LATIN1 -t UTF-8), leave them out, or raise the limit"
            )

    @property
    def notes(self) -> list[str]:
        """Remarks for a person, one sentence each."""
        notes = []
        if self.undecodable:
            total = sum(self.undecodable.values())
            name, count = max(self.undecodable.items(), key=lambda item: item[1])
            notes.append(
                f"replaced {total:,} bytes that are not UTF-8, in {len(self.undecodable)} of the files "
                f"({count:,} in {printable(name)}); data.decode_errors=strict refuses such files"
            )
        if self.bad_records:
            shown = "; ".join(map(printable, self.bad_places))
            more = "" if self.bad_records == len(self.bad_places) else "; ..."
            notes.append(f"left out {self.bad_records:,} records that cannot be read: {shown}{more}")
        if self.separated_files < self.text_files:
            notes.append(
                f"data.document_separator occurs in {self.separated_files:,} of the {self.text_files:,} text files; "
                f"each of the others is one document"
            )
        return notes


def printable(name: str) -> str:
    """Returns a file's name for people, in one line and without characters that a terminal cannot show."""
    return name.encode(errors="replace").decode().replace("\n", "\\n")
