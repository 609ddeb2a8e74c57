"""`lmjax tokenizer inspect TOKENIZER --texts PATH ...`: how well a tokenizer compresses each of several sources."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import tyro

from lmjax.cli.arguments import parse_arguments
from lmjax.data.config import STDLIB, DataConfig
from lmjax.data.prepare.documents import applicable, texts
from lmjax.naming import naming
from lmjax.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from lmjax.tokenizers.compression import Compression, compression
from lmjax.tokenizers.corpus import sample_corpus
from lmjax.train.open_corpus import TOKENIZER


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectTokenizerArguments:
    """Measure how well tokenizers compress texts: bytes a token, tokens a word, shares of single bytes and used ids."""

    tokenizers: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Runs, prepared folders, or folders or files of tokenizers."""
    texts: tuple[str, ...] = (STDLIB,)
    """Sources of text, each a file, a folder, a glob, an address or "stdlib"; give one for each language or domain."""
    text_field: str = "text"
    """The field of records that holds the text."""
    max_bytes: int = 8_000_000
    """Bytes of each source to measure: a random sample that is spread over all of it."""
    json: bool = False
    """Print one JSON object."""
    png: pathlib.Path | None = None
    """Draw a picture, too."""

    def __post_init__(self):
        if not self.tokenizers or not self.texts:
            raise ValueError("name a tokenizer, and a source of text, as in `lmjax tokenizer inspect runs/demo`")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes={self.max_bytes}: must be at least 1")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(InspectTokenizerArguments, arguments, command="tokenizer inspect")
    loaded = {str(path): saved_tokenizer(path) for path in options.tokenizers}
    samples = {}
    for path in options.texts:
        config = applicable(DataConfig(path=path, text_field=options.text_field, valid_fraction=0.0))
        with naming(path):
            samples[path] = sample_corpus(texts(config), max_bytes=options.max_bytes, seed=0)
    found = {
        name: {source: compression(tokenizer, sample) for source, sample in samples.items()}
        for name, tokenizer in loaded.items()
    }
    if options.json:
        shown = {
            name: {source: dataclasses.asdict(one) | _ratios(one) for source, one in of_source.items()}
            for name, of_source in found.items()
        }
        print(json.dumps(shown))
    else:
        for name, of_source in found.items():
            print(f"{name}: {loaded[name].kind}, {loaded[name].vocabulary.size:,} ids")
            print("\n".join(described(of_source)))
    if options.png is not None:
        from lmjax.analysis.compression_picture import draw_compression

        written = draw_compression(found, options.png)
        if not options.json:
            print(written)


def saved_tokenizer(source: pathlib.Path) -> Tokenizer:
    """Returns the tokenizer of a run, a prepared folder, or a tokenizer's own folder or file.

    Raises:
      ValueError: there is none.
    """
    saved = source / TOKENIZER if (source / TOKENIZER).is_dir() else source
    return build_tokenizer(TokenizerConfig(path=str(saved), special_tokens=()), lambda: ())


def _ratios(one: Compression) -> dict[str, float]:
    return {"bytes_per_token": one.bytes_per_token, "tokens_per_word": one.tokens_per_word}


def described(found: Mapping[str, Compression]) -> list[str]:
    """Returns a table of the sources as lines."""
    heads = ("bytes", "bytes a token", "tokens a word", "single bytes", "ids used")
    width = max(len("source"), *map(len, found))
    lines = [f"  {'source':<{width}}  " + "  ".join(f"{head:>13}" for head in heads)]
    for source, one in found.items():
        values = (
            f"{one.text_bytes:,}", f"{one.bytes_per_token:.3f}", f"{one.tokens_per_word:.3f}",
            f"{one.single_bytes:.2%}", f"{one.used:.2%}",
        )  # fmt: skip
        lines.append(f"  {source:<{width}}  " + "  ".join(f"{value:>13}" for value in values))
    return lines
