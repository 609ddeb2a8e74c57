"""The record of what lmjax knows about one model family of transformers."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import Rule
from lmjax.models.config import ModelConfig

Ids = Mapping[str, Any]
"""Special token ids by role. A value is None where the tokenizer has no such token, a list where several end a text."""

Form = Literal["decoder", "encoder", "encoder_decoder", "discriminator"]

_OLD_NAMES = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"^backbone\.embedding\.weight$"), "backbone.embeddings.weight"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One ``model_type``: how its configuration and its tensors are read and written.

    Attributes:
      name: usually the ``model_type``; another name where one ``model_type`` has models of several forms.
      model_type: the value of this key in config.json.
      form: the kind of model, which decides with which objective its training can continue.
      defaults: the values that transformers uses for keys that config.json lacks.
      read: takes their configuration and the names of their tensors, returns our configuration.
      write: takes our configuration and the special ids, returns their configuration. It may drop what theirs has
        no key for; the export notices that.
      rules: takes their configuration, returns the table of tensors.
      architecture: the class of transformers that loads what ``write`` and ``rules`` make.
      prefix: how the names of the base model's tensors begin; absent where a base model was saved without its head.
      head: our parameters that a folder may lack, all of them together, because it was saved without a head.
      synonyms: from another name that transformers accepts for a key of config.json, to the key.
      aliases: from a tensor that, if it is stored at all, repeats another tensor, to that other tensor.
      buffers: regular expression of the tensors that hold nothing learned.
      unused: our parameters that no computation reads and that theirs do not have, and their value.
      heads_divide_width: whether transformers loads the model only if the number of heads divides its width.
      told_by: a tensor that only this family has, where several families share a ``model_type``.
    """

    name: str
    model_type: str
    form: Form
    defaults: Mapping[str, Any]
    read: Callable[[HuggingFaceConfig, Collection[str]], ModelConfig]
    write: Callable[[ModelConfig, Ids], dict[str, Any]]
    rules: Callable[[Mapping[str, Any]], Sequence[Rule]]
    architecture: Callable[[ModelConfig], str]
    prefix: str
    head: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    buffers: str = ""
    unused: Callable[[ModelConfig], Mapping[str, float]] = lambda config: {}
    heads_divide_width: bool = False
    told_by: str = ""

    def unloadable(self, config: ModelConfig) -> bool:
        """Returns whether transformers refuses such a model, although files of this family can describe it."""
        has_heads = "attention" in config.mixers
        return self.heads_divide_width and has_heads and config.width % config.num_heads != 0


def todays_name(name: str) -> str:
    """Returns the name that transformers gives a tensor today, from a name it may have had in older versions."""
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name
