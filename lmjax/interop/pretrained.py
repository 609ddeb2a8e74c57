"""Reads a model's folder in the format of transformers: ``config.json`` and safetensors."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from lmjax.field_types import check_types
from lmjax.interop.families import FAMILIES
from lmjax.interop.family import Family, todays_name
from lmjax.interop.hf_config import HuggingFaceConfig, Passed, read_json
from lmjax.interop.mxfp4 import Dequantised
from lmjax.interop.table import import_parameters
from lmjax.interop.tensors import Weights
from lmjax.interop.wrappers import WRAPPERS, Renamed, text_config, text_tensors
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import ModuleSpec, Params, module_spec
from lmjax.models.transformer import Transformer
from lmjax.objectives.replaced_token import discriminator_and_generator

CONFIG = "config.json"
GENERATION = "generation_config.json"
_MOST_PER_BYTE, _FREE_PARAMETERS = 8, 1 << 24
"""How many parameters a model may have: so many for each byte of its weights, and so many more in any case.

In MXFP4 a byte holds two parameters.
"""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model read from a folder.

    Attributes:
      family: the model's family.
      config: its architecture.
      params: float32 numpy arrays, in the structure of ``module_of(config, family)`` without the parameters in ``new``.
      hf_config: config.json as it stands; for a model of text and images, the part about the text model.
      new: names of parameters that the folder does not hold because it was saved without a head.
      passed: keys of config.json that were not taken over.
      left_out: names of tensors that belong to other parts than the text model.
    """

    family: Family
    config: ModelConfig
    params: Params
    hf_config: Mapping[str, Any]
    new: Sequence[str] = ()
    passed: Passed = Passed()
    left_out: tuple[str, ...] = ()


def module_of(config: ModelConfig, family: Family) -> ModuleSpec:
    """Returns our module, with the shapes of its parameters, for a model of a family."""
    return _module(config, family.form == "discriminator")


@functools.lru_cache(maxsize=4)
def _module(config: ModelConfig, is_discriminator: bool) -> ModuleSpec:
    def construct(key: jax.Array) -> nnx.Module:
        rngs = nnx.Rngs(params=key)
        if is_discriminator:
            return discriminator_and_generator(config, None, share_embeddings=False, rngs=rngs)
        return Transformer(config, rngs=rngs)

    return module_spec(construct)


def load_pretrained(folder: pathlib.Path | str, *, ignore: Collection[str] = (), **fields: Any) -> Pretrained:
    """Reads a folder that ``save_pretrained`` of transformers wrote.

    The vocabulary keeps the size it has in the folder, padded or not.

    Args:
      folder: the folder, with config.json and safetensors.
      ignore: keys of config.json to treat as if it did not have them.
      **fields: fields of :class:`~lmjax.models.config.ModelConfig` to set, such as how the model is computed:
        ``execution=ExecutionConfig(dtype="bfloat16")``.

    Raises:
      ValueError: lmjax does not know the model type, an option or a tensor; or something is missing or damaged; or
        the weights are pickled.
    """
    folder = pathlib.Path(folder)
    whole = read_json(folder / CONFIG)
    values = text_config(whole)
    candidates = _families_of(values, folder)
    stored, left_out = text_tensors(Dequantised(Weights(folder)), whole.get("model_type", ""))
    tensors = _with_todays_names(stored, candidates[0].prefix)
    (family, *_) = [family for family in candidates if family.told_by in ("", *tensors)]
    hf, config = read_config(family, values, tensors.keys(), ignore=ignore, where=str(folder / CONFIG))
    config = dataclasses.replace(config, **fields)
    _check_size(folder, config, family)
    params, new = import_parameters(
        family.rules(hf.values),
        tensors,
        module_of(config, family).shapes,
        where=str(folder),
        aliases=family.aliases,
        buffers=family.buffers,
        unused=family.unused(config),
        head=_absent_head(family, values),
    )
    return Pretrained(family, config, params, values, new, hf.passed, left_out)


def _check_size(folder: pathlib.Path, config: ModelConfig, family: Family) -> None:
    """Refuses a configuration of a model far larger than the weights beside it, before memory is allocated for it.

    If the model is only a little larger, the check of tensor shapes finds it later.
    """
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    asked = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(module_of(config, family).shapes))
    if asked > _MOST_PER_BYTE * stored + _FREE_PARAMETERS:
        raise ValueError(
            f"{folder / CONFIG} asks for {asked:,} parameters, and the weights beside it have {stored:,} bytes: "
            f"correct its sizes, or download both again"
        )


def _absent_head(family: Family, values: Mapping[str, Any]) -> Sequence[str]:
    """Returns the names of the parameters that may be absent, all of them together.

    These are an encoder's head, and a decoder's head where config.json says that a base model was saved.
    """
    architectures = values.get("architectures")
    if family.form != "decoder" or not isinstance(architectures, list):
        return family.head
    is_base = any(str(name).endswith("Model") and not str(name).endswith("HeadModel") for name in architectures)
    return ("head_weight_DV", "head_bias_V") if is_base else ()


def read_config(
    family: Family,
    values: Mapping[str, Any],
    names: Collection[str],
    *,
    ignore: Collection[str] = (),
    where: str = CONFIG,
) -> tuple[HuggingFaceConfig, ModelConfig]:
    """Returns a family's config.json, with every key accounted for, and the architecture it describes.

    Args:
      family: the family of its ``model_type``.
      values: its content.
      names: names of the tensors beside it.
      ignore: keys to treat as if it did not have them.
      where: the file, for messages.

    Raises:
      ValueError: it describes something that is not implemented, or has unknown keys.
    """
    hf = HuggingFaceConfig(values, defaults=family.defaults, synonyms=family.synonyms, ignore=ignore, where=where)
    try:
        config = family.read(hf, names)
        check_types(config, where="model.")
        if config.vocab_size < 1:
            raise ValueError(f"vocab_size={config.vocab_size}: must be at least 1")
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{where}: a value has an impossible type or size ({error}): download it again") from None
    except ValueError as error:
        raise error if where in str(error) else ValueError(f"{where}: {error}") from None
    hf.finish()
    return hf, config


def _families_of(values: Mapping[str, Any], folder: pathlib.Path) -> list[Family]:
    """Returns the families of a config.json's ``model_type``; those that a tensor identifies come first.

    Raises:
      ValueError: it has no ``model_type``, or one that is not known.
    """
    model_type = values.get("model_type")
    found = [family for family in FAMILIES.values() if family.model_type == model_type]
    if not found:
        known = sorted({*WRAPPERS, *(family.model_type for family in FAMILIES.values())})
        raise ValueError(
            f"{folder / CONFIG}: model_type {model_type!r} is not known to lmjax, which knows {', '.join(known)}"
        )
    return sorted(found, key=lambda family: not family.told_by)


def _with_todays_names(tensors: Mapping[str, np.ndarray], prefix: str) -> Renamed:
    """Returns the tensors under the names that transformers gives them today."""
    # A base model that was saved without a head lacks the prefix that its tensors have in a model with a head.
    added = "" if any(name.startswith(prefix) for name in tensors) else prefix
    return Renamed(tensors, {f"{added}{todays_name(name)}": name for name in tensors})
