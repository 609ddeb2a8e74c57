"""What lmjax knows of a model family of transformers."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import Rule
from lmjax.models.config import ModelConfig

Ids = Mapping[str, Any]
"""Special ids by role; None where the tokenizer has none, a list where several end a text."""

Form = Literal["decoder", "encoder", "encoder_decoder", "discriminator"]

_OLD_NAMES = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"^backbone\.embedding\.weight$"), "backbone.embeddings.weight"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A ``model_type``: its configuration and its tensors, each in both directions.

    Attributes:
      name: the ``model_type``, but where one has models of several forms.
      model_type: as config.json says it.
      form: what kind of model it is, which decides how one goes on training it.
      defaults: what transformers takes for keys that config.json lacks.
      read: their configuration and the names of their tensors to ours.
      write: ours, and the special ids, to theirs; may forget what theirs has no key for, which the export notices.
      rules: from their configuration to the table of tensors.
      architecture: the class of transformers that loads what ``write`` and ``rules`` make.
      prefix: of the base model's tensors, absent where a base model was saved without its head.
      head: parameters of ours that a folder may lack all together, being saved without a head.
      synonyms: other names that transformers gives keys of config.json, to the keys.
      aliases: tensors that, where they are stored at all, repeat another.
      buffers: regular expression of tensors that hold nothing learned.
      unused: parameters of ours that no computation reads and theirs do not have, and their value.
      heads_divide_width: whether transformers loads it only where the number of heads divides the model's width.
      told_by: a tensor that only this family has, where several share a ``model_type``.
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
        """Whether transformers refuses such a model, although files of this family can say it."""
        has_heads = "attention" in config.mixers
        return self.heads_divide_width and has_heads and config.width % config.num_heads != 0


def todays_name(name: str) -> str:
    """The name transformers gives a tensor today."""
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name
