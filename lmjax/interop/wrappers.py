"""Models of text and something else (images): which part of their files is a text model's."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# What the whole model's config.json says of its text model.
_INHERITED = ("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config", "tie_word_embeddings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrapper:
    """Where the text model of a ``model_type`` lies.

    Attributes:
      key: of config.json, whose value is the text model's own configuration.
      model_type: of the text model, where its configuration does not say it.
      places: how its tensors' names begin there, and in a folder of its own; the first that fits is taken.
      others: regular expression of the tensors of other parts.
    """

    key: str
    model_type: str
    places: tuple[tuple[str, str], ...]
    others: str


WRAPPERS = {
    "gemma3": Wrapper(
        key="text_config",
        model_type="gemma3_text",
        places=(("model.language_model.", "model."), ("language_model.", ""), ("lm_head.", "lm_head.")),
        others=r"(model\.)?(vision_tower|multi_modal_projector)\..+",
    ),
}
"""By the ``model_type`` of the whole."""


class Renamed(Mapping[str, np.ndarray]):
    """Tensors under other names, each read when it is asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray], stored_as: Mapping[str, str]):
        """Takes the new names and what each is called in ``tensors``."""
        self._tensors = tensors
        self._stored_as = stored_as

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._stored_as[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._stored_as

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored_as)

    def __len__(self) -> int:
        return len(self._stored_as)


def text_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The text model's configuration, from that of the whole; the same values where there is no whole.

    Raises:
      ValueError: the whole has none for its text model.
    """
    model_type = values.get("model_type")
    wrapper = WRAPPERS.get(model_type) if isinstance(model_type, str) else None
    if wrapper is None:
        return dict(values)
    inner = values.get(wrapper.key)
    if not isinstance(inner, dict):
        raise ValueError(f"config.json has no {wrapper.key!r}, where a {values['model_type']} has its text model's")
    inherited = {key: values[key] for key in _INHERITED if values.get(key) is not None}
    return {"model_type": wrapper.model_type, **inner, **inherited}


def text_tensors(
    tensors: Mapping[str, np.ndarray], model_type: str
) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """The text model's tensors under the names they have in a folder of its own, and the names of those left out."""
    wrapper = WRAPPERS.get(model_type)
    if wrapper is None:
        return tensors, ()
    left_out = tuple(name for name in tensors if re.fullmatch(wrapper.others, name))
    kept = [name for name in tensors if name not in set(left_out)]
    return Renamed(tensors, {_own_name(name, wrapper): name for name in kept}), left_out


def _own_name(name: str, wrapper: Wrapper) -> str:
    for theirs, own in wrapper.places:
        if name.startswith(theirs):
            return own + name.removeprefix(theirs)
    return name
