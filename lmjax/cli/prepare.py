"""`lmjax prepare RECIPE [--data.path ...]`: trains the tokenizer and writes token shards; resumable."""

import dataclasses
from collections.abc import Sequence

from lmjax.cli.engine import OPTIONS, take_where
from lmjax.cli.progress_bar import bytes_bar
from lmjax.cli.recipe import parse_recipe
from lmjax.data.manifest import Manifest
from lmjax.data.publish import check_publishable, publish
from lmjax.parallel.paths import refuse_address
from lmjax.remote.address import address_of, copy_folder
from lmjax.train.open_corpus import open_corpus


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    where, arguments = take_where(arguments)
    config = parse_recipe("prepare", arguments, options=OPTIONS)
    if config.data.mixture:
        folders = ", ".join(config.data.mixture)
        raise ValueError(f"data.mixture names prepared folders ({folders}): prepare each from its own data.path")
    address = address_of(config.data.prepared)
    if address is not None:
        # Shards are written to a folder, and copied when all of them are there.
        folder = copy_folder(address, "written", kind="data")
        check_publishable(folder, address)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, prepared=str(folder)))
    refuse_address("data.prepared", config.data.prepared)
    with bytes_bar("preparing") as progress:
        corpus = open_corpus(config.data, config.tokenizer, progress=progress, current=True, where=where)
    for name, source in corpus.sources.items() or (("", corpus),):
        if name:
            print(f"{name}: {source.folder}")
        _report(source.manifest, indent="  " if name else "")
    if address is not None:
        with bytes_bar("copying") as progress:
            publish(corpus.folder, address, progress=progress)
        print(f"copied to {address}")
    print(f"{corpus.tokenizer.kind} tokenizer of {corpus.tokenizer.vocabulary.size:,} ids; prepared: {corpus.folder}")


def _report(manifest: Manifest, *, indent: str) -> None:
    for split in ("train", "valid"):
        documents, tokens = manifest.total(split, "documents"), manifest.total(split, "tokens")
        text_bytes = manifest.total(split, "text_bytes")
        ratio = f", {text_bytes / tokens:.2f} bytes a token" if tokens else ""
        print(f"{indent}{split}: {documents:,} documents, {tokens:,} tokens, {text_bytes:,} bytes{ratio}")
    for note in manifest.notes:
        print(f"{indent}{note}")
