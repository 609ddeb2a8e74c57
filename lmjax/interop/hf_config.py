"""A ``config.json`` of theirs, read such that no key goes unnoticed."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

_REQUIRED = object()

IRRELEVANT = (
    "architectures", "_attn_implementation", "attn_implementation", "auto_map", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "classifier_dropout",
    "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "model_type", "_name_or_path",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_past", "output_scores", "pad_token_id", "prefix",
    "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers_version", "typical_p", "use_cache",
)  # fmt: skip
"""Keys any config.json may have that change nothing in how hidden states and logits come about."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "is_decoder": (False, None),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "use_bfloat16": (False, None),
}


class HuggingFaceConfig:
    """The values of a ``config.json``; keys are looked up, required to have a value, or declared irrelevant.

    :meth:`finish` then refuses whatever has not been accounted for.
    """

    def __init__(self, values: Mapping[str, Any], *, defaults: Mapping[str, Any], where: str = "config.json"):
        """Wraps a JSON object.

        Args:
          values: the object.
          defaults: what transformers takes for keys it lacks.
          where: the file, for messages.
        """
        self._values = {**defaults, **values}
        self._given = values.keys()
        self._defaults = defaults
        self._where = where
        self._seen = set(IRRELEVANT)

    def __contains__(self, key: str) -> bool:
        return key in self._given

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of ``key``, or what transformers takes when the file has none.

        Raises:
          ValueError: the key is missing and has no default.
        """
        self._seen.add(key)
        value = self._values.get(key, default)
        if value is _REQUIRED:
            raise ValueError(f"{self._where} has no {key!r}: download it again")
        return self._defaults.get(key) if value is None else value

    def choice(self, key: str, choices: dict[Any, Any], default: Any = _REQUIRED) -> Any:
        """What ``choices`` has for the value of ``key``.

        Raises:
          ValueError: it is none of them.
        """
        value = self.get(key, default)
        if not isinstance(value, str | bool | int | None) or value not in choices:
            raise self.refusal(key, value, f"known are {', '.join(str(choice) for choice in choices)}")
        return choices[value]

    def require(self, key: str, *allowed: Any) -> None:
        """Refuses ``key`` unless it is missing or one of ``allowed``.

        Raises:
          ValueError: it is something else.
        """
        self._seen.add(key)
        if key in self._values and self._values[key] not in allowed:
            raise self.refusal(key, self._values[key], f"only {allowed[0]!r} is")

    def ignore(self, *keys: str) -> None:
        """Declares keys that do not matter to the model."""
        self._seen.update(keys)

    def refusal(self, key: str, value: Any, detail: str) -> ValueError:
        """The error for a value that is not implemented."""
        return ValueError(f"{self._where}: {key}={value!r} is not implemented by lmjax ({detail})")

    def finish(self) -> None:
        """Refuses keys nobody has asked for.

        Raises:
          ValueError: names the first of them.
        """
        for key, allowed in _NEUTRAL.items():
            if key not in self._seen:
                self.require(key, *allowed)
        for key in sorted(self._given - self._seen):
            raise ValueError(
                f"{self._where}: {key}={self._values[key]!r} is not a key lmjax knows for this model_type: "
                f"remove it if it does not change the model"
            )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
      ValueError: the file is missing, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path.parent} has no {path.name}: give the folder of a Hugging Face model") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: download it again")
    return value
