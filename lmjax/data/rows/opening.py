"""Opens the rows of prepared folders, as the configuration of the data says they are cut, packed and mixed."""

import hashlib
import pathlib
from typing import Any

from lmjax.data.config import DataConfig
from lmjax.data.manifest import Manifest
from lmjax.data.mixing import weights_by_step
from lmjax.data.rows.blocks import PackedRows, WindowRows
from lmjax.data.rows.examples import ExampleRows
from lmjax.data.rows.mixture import MixtureRows, StreamMixtureRows
from lmjax.data.rows.shard_reader import TokenShards, open_shards
from lmjax.data.rows.source import RowSource
from lmjax.data.rows.streams import StreamRows
from lmjax.data.rows.whole import WholePackedRows, WholeRows, WholeStreamRows
from lmjax.data.stored import local_folder, place_of


def open_rows(
    config: DataConfig,
    split: str,
    *,
    row_length: int,
    seed: int | None,
    folder: pathlib.Path | str | None = None,
    block_length: int | None = None,
    overlap: int = 0,
    num_streams: int = 1,
    tokenizer_fingerprint: str | None = None,
    whole: bool = False,
    eos_id: int | None = None,
) -> RowSource:
    """Opens the rows of a split as ``config.packing`` says, of one folder or of a mixture.

    Args:
      config: packing, and the folder or folders.
      split: ``"train"`` or ``"valid"``.
      row_length: T.
      seed: seed of the order; ``None`` is the fixed order of validation.
      folder: the prepared folder of a single source, if it is not ``config.prepared``.
      block_length: the largest row length of the run, if the length changes during the run.
      overlap: tokens that a row shares with the next one of its block (0 where a row is an example).
      num_streams: number of rows in a step; with "streams" each row is continued in the next step.
      tokenizer_fingerprint: refuse shards that another tokenizer has made.
      whole: for evaluation, read every token of the split once, see :mod:`lmjax.data.rows.whole`; only for a single
        source.
      eos_id: with ``whole``, the token before the first token of an unbroken text.

    Raises:
      ValueError: no folder is given, or one cannot be used (see ``open_shards`` and ``WindowRows``).
    """
    if config.source_names:
        assert not whole, "the sources of a mixture are evaluated one by one"
        return _mixed_rows(
            config,
            split,
            row_length=row_length,
            seed=seed,
            block_length=block_length,
            overlap=overlap,
            num_streams=num_streams,
            tokenizer_fingerprint=tokenizer_fingerprint,
        )
    folder = config.prepared if folder is None else folder
    if folder is None:
        raise ValueError("data.prepared is not set: name the folder lmjax prepare wrote")
    shards = _open_checked(config, folder, split, tokenizer_fingerprint)
    if config.packing == "examples":
        return ExampleRows(shards, row_length=row_length, block_length=block_length, seed=seed)
    if whole:
        return _whole_rows(config, shards, row_length, overlap, num_streams, eos_id)
    if config.packing == "streams":
        return StreamRows(shards, row_length=row_length, num_streams=num_streams)
    if config.packing == "best_fit":
        return PackedRows(shards, row_length=row_length, block_length=block_length, overlap=overlap, seed=seed)
    return WindowRows(
        shards,
        row_length=row_length,
        block_length=block_length,
        overlap=overlap,
        seed=seed,
        segments=config.packing == "segments",
    )


def _open_checked(config: DataConfig, folder: pathlib.Path | str, split: str, fingerprint: str | None) -> TokenShards:
    shards = open_shards(
        folder,
        split,
        tokenizer_fingerprint=fingerprint,
        verify=config.verify,
        cache_gigabytes=config.cache_gigabytes,
    )
    if shards.members != config.members:
        raise ValueError(
            f"{place_of(shards.folder)} was prepared with data.members={shards.members}, here it is {config.members}: "
            f"set it to that (and data.packing to examples, if it names any), or use another folder"
        )
    return shards


def _mixed_rows(config: DataConfig, split: str, *, num_streams: int, seed: int | None, **options: Any) -> RowSource:
    """Opens the rows of all sources of a mixture; ``options`` are those of :func:`open_rows`."""
    parts = config.parts

    def open_source(name: str, num_streams: int) -> RowSource:
        own_seed = None if seed is None else seed + (_number_of(config, name) << 32)
        return open_rows(parts[name], split, num_streams=num_streams, seed=own_seed, **options)

    tokens = {
        name: Manifest.load(local_folder(part.prepared or "")).total("train", "tokens") for name, part in parts.items()
    }
    (_, first), *later = weights_by_step(config, tokens)
    if config.packing == "streams":
        return StreamMixtureRows(
            open_source, {name: share for name, share in first.items() if share}, num_streams=num_streams
        )
    return MixtureRows(
        [open_source(name, num_streams) for name in parts],
        [first[name] for name in parts],
        names=tuple(parts),
        later=[(step, [shares[name] for name in parts]) for step, shares in later],
    )


def _number_of(config: DataConfig, name: str) -> int:
    """Returns a number by which sources differ, so that they do not visit their blocks in the same order.

    A named source keeps its number if others are added. The folders of ``mixture`` are numbered.
    """
    if not config.sources:
        return config.source_names.index(name)
    return 1 + int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "little")


def _whole_rows(
    config: DataConfig, shards: TokenShards, row_length: int, overlap: int, num_streams: int, eos_id: int | None
) -> RowSource:
    if config.packing == "streams":
        return WholeStreamRows(shards, row_length=row_length, num_streams=num_streams)
    if config.packing == "best_fit":
        return WholePackedRows(shards, row_length=row_length, overlap=overlap)
    settings = shards.manifest.settings
    follows_eos = settings.get("add_eos", False) and not settings.get("add_bos", False)
    return WholeRows(
        shards,
        row_length=row_length,
        overlap=overlap,
        lead_id=eos_id if follows_eos else None,
        by_document=config.packing == "segments",
    )
