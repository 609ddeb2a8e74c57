"""`lmjax inspect DATA`: what a prepared folder holds, and how rows of it would look."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from lmjax.cli.arguments import parse_arguments
from lmjax.data.inspection import Inspection, inspect_data, prepared_folders
from lmjax.data.prepare.prepare import TOKENIZER
from lmjax.data.rows.blocks import WindowRows
from lmjax.data.rows.examples import ExampleRows
from lmjax.data.rows.shard_reader import open_shards
from lmjax.data.rows.source import RowSource
from lmjax.tokenizers import load_tokenizer

BAR = 30
SHOWN_CHARACTERS = 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectDataArguments:
    """Show what prepared data hold: counts, lengths, figures of each packing, duplicates, some rows as text."""

    folder: tyro.conf.Positional[pathlib.Path]
    """A folder that `lmjax prepare` made, or the address of a copy; of several sources, their common folder."""
    split: Literal["train", "valid"] = "train"
    """Which documents."""
    sequence_length: int = 1024
    """Tokens of a row, for the figures of packings and the rows that are shown."""
    rows: int = 2
    """Rows to show as text."""
    seed: int = 0
    """Decides which rows are shown."""
    json: bool = False
    """Print one JSON object, and no rows."""
    png: pathlib.Path | None = None
    """Draw a picture of the lengths and the packings, too."""

    def __post_init__(self):
        for name, least in (("sequence_length", 1), ("rows", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    inspect_prepared(parse_arguments(InspectDataArguments, arguments, command="inspect", data=("folder",)))


def inspect_prepared(options: InspectDataArguments) -> None:
    """Inspects prepared data, and prints and draws what was found.

    Raises:
      ValueError: the folder holds no prepared data.
    """
    folders = prepared_folders(options.folder)
    found = {
        name: inspect_data(folder, options.split, sequence_length=options.sequence_length)
        for name, folder in folders.items()
    }
    if options.json:
        print(json.dumps({name: dataclasses.asdict(one) for name, one in found.items()}))
    else:
        for name, one in found.items():
            print(f"{name}: {one.folder}, {one.split}")
            print("\n".join(described(one)))
            for line in rows_as_text(folders[name], options):
                print(line)
            print()
    if options.png is not None:
        from lmjax.analysis.data_picture import draw_inspections

        written = draw_inspections(found, options.png)
        if not options.json:
            print(written)


def described(found: Inspection) -> list[str]:
    """Returns lines that describe a split."""
    lines = [
        f"  {found.documents:,} documents, {found.tokens:,} tokens, {found.text_bytes:,} bytes of text in "
        f"{found.shards:,} shards; {found.bytes_per_token:.2f} bytes a token",
        f"  lengths: mean {found.tokens / found.documents:,.0f}, median {found.median:,}, longest {found.longest:,} "
        f"tokens",
        *(f"  {note}" for note in found.notes),
        "",
        f"  {'length':>19}  {'documents':>12}  {'of tokens':>9}",
    ]
    most = max(documents for _, _, documents, _ in found.lengths)
    for first, below, documents, tokens in found.lengths:
        span, bar = f"{first:>8,} - {below - 1:>8,}", "#" * round(BAR * documents / most)
        lines.append(f"  {span}  {documents:>12,}  {tokens / found.tokens:>9.1%}  {bar}".rstrip())
    lines += ["", f"  rows of {found.sequence_length:,} tokens:"]
    lines.append(f"  {'packing':>10}  {'rows':>12}  {'filled':>8}  {'documents cut':>13}  {'tokens left out':>15}")
    for name, one in found.packings.items():
        lines.append(f"  {name:>10}  {one.rows:>12,}  {one.fill:>8.2%}  {one.cut:>13.2%}  {one.lost:>15.2%}")
    copies = found.duplicates
    at_least = "at least " if copies.signed < found.documents else ""
    lines += [
        "",
        f"  duplicates: {copies.exact:.2%} of {copies.compared:,} documents repeat another one exactly, {at_least}"
        f"{copies.near:.2%} of {copies.signed:,} nearly",
    ]
    return lines


def rows_as_text(folder: pathlib.Path, options: InspectDataArguments) -> list[str]:
    """Returns some rows as text, with the names of special tokens; long rows are cut, and line ends are shown."""
    tokenizer = load_tokenizer(folder / TOKENIZER)
    shards = open_shards(folder, options.split, verify="never")
    length = min(options.sequence_length, shards.num_tokens)
    if shards.members:
        rows: RowSource = ExampleRows(
            shards, row_length=-(-length // len(shards.members)) * len(shards.members), seed=options.seed
        )
    else:
        rows = WindowRows(shards, row_length=length, seed=options.seed)
    lines = []
    for number in range(min(options.rows, len(rows))):
        row = rows.row(number)
        tokens_T = row.tokens_BT[0]
        if row.segments_BT is not None:
            tokens_T = tokens_T[row.segments_BT[0] > 0]
        text = tokenizer.decode(tokens_T.tolist(), skip_special=False)
        cut = "..." if len(text) > SHOWN_CHARACTERS else ""
        lines += ["", f"  row {number}: {_visible(text[:SHOWN_CHARACTERS])}{cut}"]
        if shards.has_ids and isinstance(rows, WindowRows):
            start = rows.start_of(number)
            ids = shards.document_ids(start, min(length, shards.num_tokens - start))
            lines.append(f"  documents of row {number}: {_visible(', '.join(ids))}")
    return lines


def _visible(text: str) -> str:
    """Returns a text in one line: characters that a terminal would not print, or would obey, are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
