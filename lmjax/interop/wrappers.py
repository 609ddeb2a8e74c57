"""Finds the text model in the files of a model that also reads something else, such as images."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Keys of the whole model's config.json that apply to its text model.
_INHERITED = ("bos_token_id", "eos_token_id", "pad_token_id", "quantization_config", "tie_word_embeddings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrapper:
    """Where the text model of a ``model_type`` lies.

    Attributes:
      key: the key of config.json whose value is the text model's own configuration.
      model_type: the text model's ``model_type``, used where its configuration does not say it.
      places: pairs of prefixes of tensor names: in the whole model, and in a folder of the text model alone. The first
        pair that fits is used.
      others: regular expression of the names of tensors that belong to other parts.
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
"""The wrappers, by the ``model_type`` of the whole model."""


class Renamed(Mapping[str, np.ndarray]):
    """Tensors under other names, each read when it is asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray], stored_as: Mapping[str, str]):
        """Takes the tensors, and a mapping from each new name to the name in ``tensors``."""
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
    """Returns the text model's configuration, from that of the whole model.

    A model of text alone has no such part; its values are returned unchanged.

    Raises:
      ValueError: the whole model's configuration has no part for its text model.
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
    """Returns the text model's tensors and the names of the tensors left out.

    The tensors have the names that they have in a folder of the text model alone.
    """
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
