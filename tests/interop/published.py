"""Folders as people publish them, small: each kind of tokenizer with all that lies beside it."""

import io
import json
import pathlib

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

TEXTS = ["the cat sat on the mat", "a man and a cat", "then he sat on a mat and ate"] * 40
CHAT = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
GENERATION = {"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.6, "top_p": 0.95, "do_sample": True}
KINDS = {
    "byte_bpe": "llama",
    "sentencepiece_bpe": "llama",
    "sentencepiece_added": "mistral",
    "sentencepiece_unigram": "t5",
    "wordpiece": "bert",
}
"""Kind of tokenizer to the ``model_type`` of a model that has such a one."""


def publish(folder: pathlib.Path, kind: str) -> pathlib.Path:
    """Writes the files of a folder but for the weights; ids stay below 61."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": KINDS[kind], "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
    if kind == "sentencepiece_unigram":
        config |= {"eos_token_id": 1, "bos_token_id": None, "decoder_start_token_id": 0}
    _write(folder, "config.json", config)
    _write(folder, "generation_config.json", GENERATION)
    _MAKERS[kind](folder)
    return folder


def _write(folder: pathlib.Path, name: str, values: dict) -> None:
    (folder / name).write_text(json.dumps(values))


def _byte_bpe(folder: pathlib.Path) -> None:
    pieces = ["<pad>", "<s>", "</s>", "<|end|>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ċ", "th", "at", "Ġth"]
    merges = [("t", "h"), ("a", "t"), ("Ġ", "th")]
    library = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<pad>", "<s>", "</s>", "<|end|>"])
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    library.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": "<pad>"}
    _write(folder, "special_tokens_map.json", named)
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})
    (folder / "chat_template.jinja").write_text(CHAT)


def _sentencepiece(folder: pathlib.Path, name: str, **options) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2,
        **options,
    )  # fmt: skip
    (folder / name).write_bytes(model.getvalue())


def _sentencepiece_bpe(folder: pathlib.Path) -> None:
    _sentencepiece(folder, "tokenizer.model", model_type="bpe")
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "chat_template": CHAT}
    _write(folder, "tokenizer_config.json", {**config, **named})


def _sentencepiece_added(folder: pathlib.Path) -> None:
    _sentencepiece_bpe(folder)
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()
    added = {"<pad>": size, "<|im_start|>": size + 1, "<|im_end|>": size + 2}
    _write(folder, "added_tokens.json", added)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    decoder = {str(i): {"content": name, "special": True, "normalized": False} for name, i in added.items()}
    named = {"eos_token": "<|im_end|>", "pad_token": "<pad>"}
    _write(folder, "tokenizer_config.json", {**config, **named, "added_tokens_decoder": decoder})
    _write(folder, "special_tokens_map.json", {"bos_token": "<s>", **named})


def _sentencepiece_unigram(folder: pathlib.Path) -> None:
    _sentencepiece(folder, "spiece.model", model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 3, **named})


def _wordpiece(folder: pathlib.Path) -> None:
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "man", "##s"]
    library = tokenizers.Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens(pieces[:5])
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    library.save(str(folder / "tokenizer.json"))
    named = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "cls", "sep", "mask", "unk")}
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False, **named})


_MAKERS = {
    "byte_bpe": _byte_bpe,
    "sentencepiece_bpe": _sentencepiece_bpe,
    "sentencepiece_added": _sentencepiece_added,
    "sentencepiece_unigram": _sentencepiece_unigram,
    "wordpiece": _wordpiece,
}
