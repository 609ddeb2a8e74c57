"""Prepared folders made by hand, in which every token is different and so says where it comes from."""

import numpy as np
import pytest

from lmjax.data.manifest import Manifest, token_dtype
from lmjax.data.prepare.shard_writer import ShardWriter
from lmjax.data.rows.shard_reader import open_shards
from lmjax.tokenizers.byte import ByteTokenizer

VOCABULARY_SIZE = 1 << 20


@pytest.fixture(scope="session")
def tokenizer():
    return ByteTokenizer({"<pad>": 256, "<eos>": 257, "<bos>": 258})


@pytest.fixture
def make_shards(tmp_path):
    """(lengths of documents, one list a shard) -> opened shards whose tokens are 1, 2, 3, ..."""

    def make(lengths_by_shard, *, weighted=False, name="prepared"):
        folder = tmp_path / name
        folder.mkdir()
        shards, token = [], 1
        for number, lengths in enumerate(lengths_by_shard):
            writer = ShardWriter(
                folder,
                f"train-{number:05d}",
                split="train",
                vocabulary_size=VOCABULARY_SIZE,
                weighted=weighted,
            )
            for length in lengths:
                ids = np.arange(token, token + length)
                writer.add(ids, weights=ids % 8 / 4 if weighted else None)
                token += length
            shards.append(writer.finish())
        Manifest(
            dtype=token_dtype(VOCABULARY_SIZE).name,
            weighted=weighted,
            vocabulary_size=VOCABULARY_SIZE,
            pad_id=0,
            tokenizer_fingerprint="fingerprint",
            settings={},
            source={},
            shards=tuple(shards),
        ).save(folder)
        return open_shards(folder, "train")

    return make
