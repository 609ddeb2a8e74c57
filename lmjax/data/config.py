"""The configuration of the data: what is read, and how it becomes rows."""

import collections
import dataclasses
import re
from typing import Any, Literal

from lmjax.data.config_checks import check_data_config
from lmjax.data.mixing import Source, Stage
from lmjax.naming import naming
from lmjax.remote.address import stored_address
from lmjax.tokenizers.chat import read_chat_template

STDLIB = "stdlib"
CACHE_GIGABYTES = 100.0
FETCH_THREADS = 8
"""Threads that read rows ahead of the step where their shards are fetched."""

# The backslash of a longer name, such as \newpage, stays a backslash.
_TYPED_ESCAPE = re.compile(r"\\([nrt])(?![A-Za-z])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The source of the text, how it is split and stored as tokens, and how rows are cut from the tokens."""

    path: str = STDLIB
    """A file, a folder or a glob, an address of them (gs://, s3://, hf://, https://), or "stdlib", the Python standard
    library's own sources. The formats are text, JSON lines (.jsonl, .ndjson, .json, or a first line that is an object
    with text_field) and arrays of JSON objects, plain or compressed by gzip, zstandard, bzip2 or xz; Parquet, Arrow as
    `datasets` saves it, and ArrayRecord. The first bytes of a file decide, and a file of another format is refused.
    """
    document_glob: str = "**/*"
    """Which files of a folder are read."""
    document_separator: str | None = None
    r"""Text that divides a text file into documents (such as "<|endoftext|>"); without it each file is one document.
    \n, \r and \t may be typed, and a line end also matches that of Windows."""
    cut_files: bool = False
    """Text files without a separator: cut those larger than shard_bytes at line ends into documents of that size, so
    that they are prepared in parallel."""
    text_field: str = "text"
    """Records: the field that holds the text (with prompt_field: the response); a nested one as message.text."""
    id_field: str | None = None
    """Records: the field with the document's id, which is kept beside its tokens."""
    template: str | None = None
    r"""Records, in place of text_field: a text with fields in braces, such as "{title}\n\n{body}"; {{ is a brace."""
    prompt_field: str | None = None
    """Records: a field whose text comes before the text and has loss weight 0."""
    weight_field: str | None = None
    """Records: the field with the loss weight of the text: a number, or one for each text of a list."""
    messages_field: str | None = None
    """Records, in place of text_field: the field with the messages of a conversation, each with role and content. The
    assistant's messages have loss weight 1, all else 0."""
    chat_template: str = "roles"
    """How messages become text: "roles", which puts a special token <|ROLE|> before each message and the end-of-text
    token after the assistant's; or a Jinja file, or a tokenizer's folder, with a chat template of Hugging Face."""
    members: tuple[str, ...] = ()
    """Records: the fields that hold the texts of an example (such as "chosen" "rejected"), in place of text_field;
    each text becomes a document, begins with the text of prompt_field, and is stored next to the others."""
    decode_errors: Literal["replace", "strict"] = "replace"
    """Bytes that are not UTF-8: put U+FFFD in their place and count them, or refuse the record (see bad_records)."""
    max_undecodable: float = 0.01
    """Stop when more than this share of the bytes, of all or of one unit of input (shard_bytes), is not UTF-8."""
    bad_records: Literal["refuse", "skip"] = "refuse"
    """Records that cannot be read (invalid JSON, a field that is missing or not text, NUL bytes in text, ...): stop
    at the first, or leave them out and count them.
    """
    max_record_bytes: int = 1 << 28
    """JSON: the largest size of a record in bytes; a longer one is a bad record."""
    max_expansion: float = 200.0
    """Stop when an archive expands to more than this many times its size (after the first 64 MiB)."""
    add_bos: bool = False
    """Begin each document with the tokenizer's beginning-of-text token."""
    add_eos: bool = True
    """End each document with the tokenizer's end-of-text token."""
    valid_fraction: float = 0.05
    """The share of the data kept for validation."""
    split: Literal["document", "tail"] = "document"
    """Validate on whole documents, chosen by a hash of their text, or on the last part of each file: its last
    documents, and the end of the one document that the cut falls into."""
    fim_rate: float = 0.0
    """Share of the documents that preparation cuts into prefix, middle and suffix, between characters, and stores
    with the middle at the end (fill in the middle).
    """
    fim_spm_fraction: float = 0.5
    """Of those, the share in the order suffix, prefix, middle; the others are prefix, suffix, middle."""
    fim_markers: tuple[str, str, str] = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    """Names of the special tokens before the prefix, the suffix and the middle."""
    shard_bytes: int = 1 << 26
    """Bytes of input for each pair of shards: the unit of parallel work and of resuming."""
    prepared: str | None = None
    """The folder of the token shards; preparation makes it if it is not there. It may be the address of a copy of such
    a folder (s3://BUCKET/DATA, gs://, ...), which is read only."""
    cache_gigabytes: float = CACHE_GIGABYTES
    """Shards at an address: the most that the local cache keeps of all of them, in 10^9 bytes."""
    verify: Literal["sample", "always", "never"] = "sample"
    """Checksums of the shards at each start: of all files that are new or changed, and of others picked at random, up
    to 1 GiB of each split (a smaller split is read whole, every time); of all files; or only the files' sizes."""
    read_threads: int = 0
    """Threads that read rows ahead of the step; 0 reads in one thread, which is best for local disks, and shards at an
    address in 8."""
    mixture: tuple[str, ...] = ()
    """Several prepared folders to draw rows from, in place of path and prepared."""
    mixture_weights: tuple[float, ...] = ()
    """The share of rows from each folder of mixture, in any unit."""
    sources: dict[str, Source] = dataclasses.field(default_factory=dict, hash=False)
    """Several sources by name, in place of path; they are prepared together, each in a folder below prepared."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """The share of rows from each source, in any unit; in proportion to their tokens if neither this nor temperature
    is given."""
    temperature: float | None = None
    """In place of weights: a source of n tokens has the weight n^(1 / temperature)."""
    stages: tuple[Stage, ...] = ()
    """Other weights from a step on, stage after stage."""
    max_epochs: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    """The most times that the run may read a source; a run that would read it more often is refused beforehand."""
    packing: Literal["windows", "segments", "best_fit", "examples", "streams"] = "windows"
    """How rows are made: windows over the whole stream (windows); the same windows, in which documents do not attend
    to each other (segments); whole documents packed together (best_fit); one example in each row, a document or the
    texts of members, cut or padded to fit (examples); or rows that each continue the same row of the step before, for
    objectives with a memory (streams).
    """

    def __post_init__(self):
        check_data_config(self)
        for name, source in self.sources.items():
            with naming(f"data.sources: {name}"):
                self._of_source(source)

    @property
    def separator(self) -> str | None:
        r"""The document separator; typed ``\n``, ``\r`` and ``\t`` are replaced by line ends and tabs."""
        return None if self.document_separator is None else _unescaped(self.document_separator)

    @property
    def record_template(self) -> str | None:
        """The template; typed line ends and tabs are replaced, as in :attr:`separator`."""
        return None if self.template is None else _unescaped(self.template)

    @property
    def threads(self) -> int:
        """The number of threads that read rows ahead: ``read_threads``, or what is best for where the shards are."""
        folders = (self.prepared, *self.mixture, *(source.prepared for source in self.sources.values()))
        return self.read_threads or FETCH_THREADS * any(stored_address(folder) is not None for folder in folders)

    @property
    def weighted(self) -> bool:
        """Whether documents carry loss weights, which are then stored beside the tokens."""
        return any(field is not None for field in (self.prompt_field, self.weight_field, self.messages_field))

    @property
    def num_members(self) -> int:
        """The number of documents that form an example."""
        return max(len(self.members), 1)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of the sources of a mixture, in the order that decides the rows; empty for a single source.

        The folders of ``mixture`` are named after their paths, in the order given.
        """
        if self.sources:
            return tuple(sorted(self.sources))
        seen: collections.Counter[str] = collections.Counter()
        names = []
        for folder in self.mixture:
            seen[folder] += 1
            names.append(folder if seen[folder] == 1 else f"{folder} ({seen[folder]})")
        return tuple(names)

    @property
    def parts(self) -> dict[str, "DataConfig"]:
        """The configuration of each source of a mixture by itself, by name; empty for a single source."""
        if self.sources:
            return {name: self._of_source(self.sources[name]) for name in self.source_names}
        return {
            name: self.single(prepared=folder) for name, folder in zip(self.source_names, self.mixture, strict=True)
        }

    def _of_source(self, source: Source) -> "DataConfig":
        given = {name: value for name, value in dataclasses.asdict(source).items() if value is not None}
        return self.single(**{"prepared": None, **given})

    def single(self, **changes) -> "DataConfig":
        """Returns the configuration of a single source: without the mixture, and with these changes."""
        alone: dict[str, Any] = {
            "mixture": (),
            "mixture_weights": (),
            "sources": {},
            "weights": {},
            "temperature": None,
        }
        return dataclasses.replace(self, **{**alone, "stages": (), "max_epochs": {}, **changes})

    def preparation(self) -> dict[str, object]:
        """The fields that, together with the files and the tokenizer, determine the bytes of the shards."""
        names = (
            "text_field", "prompt_field", "weight_field", "decode_errors",
            "add_bos", "add_eos", "valid_fraction", "split", "shard_bytes",
        )  # fmt: skip
        settings: dict[str, object] = {"document_separator": self.separator}
        settings |= {name: getattr(self, name) for name in names}
        # These are included only if they are used, so that shards from before the field existed stay valid.
        if self.bad_records == "skip":
            settings |= {"bad_records": "skip", "max_record_bytes": self.max_record_bytes}
        if self.id_field is not None:
            settings["id_field"] = self.id_field
        if self.cut_files:
            settings["cut_files"] = True
        if self.messages_field is not None:
            settings |= {"messages_field": self.messages_field, "chat_template": read_chat_template(self.chat_template)}
        if self.template is not None:
            settings["template"] = self.record_template
        if self.members:
            settings["members"] = list(self.members)
        if self.fim_rate:
            settings["fim_rate"] = self.fim_rate
            settings["fim_spm_fraction"] = self.fim_spm_fraction
            settings["fim_markers"] = list(self.fim_markers)
        return settings


def _unescaped(text: str) -> str:
    return _TYPED_ESCAPE.sub(lambda match: {"n": "\n", "r": "\r", "t": "\t"}[match[1]], text)
