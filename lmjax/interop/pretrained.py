"""Reads and writes a model's folder in the format of transformers: ``config.json`` and safetensors."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmjax.atomic_files import write_json
from lmjax.field_types import check_types
from lmjax.interop.comparison import structural_differences
from lmjax.interop.families import FAMILIES
from lmjax.interop.family import Family, Ids, todays_name
from lmjax.interop.hf_config import HuggingFaceConfig, Passed, read_json
from lmjax.interop.mxfp4 import Dequantised
from lmjax.interop.rope_config import without_ntk
from lmjax.interop.table import exported_tensors, import_parameters
from lmjax.interop.tensors import SHARD_BYTES, Weights, write_weights
from lmjax.interop.wrappers import WRAPPERS, Renamed, text_config, text_tensors
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import ModuleSpec, Params, module_spec
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import EXTRAS
from lmjax.objectives.replaced_token import discriminator_and_generator

CONFIG = "config.json"
GENERATION = "generation_config.json"
_MOST_PER_BYTE, _FREE_PARAMETERS = 8, 1 << 24
"""How many parameters a model may have: so many for each byte of its weights, and so many more in any case.

In MXFP4 a byte holds two parameters.
"""
_OF_GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")


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


def save_pretrained(
    folder: pathlib.Path | str,
    config: ModelConfig,
    params: Params,
    *,
    family_name: str | None = None,
    preferred: str | None = None,
    reads: Literal["forwards", "both_ways"] = "forwards",
    ids: Ids | None = None,
    generation: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> Family:
    """Writes ``config.json`` and weights that ``AutoModel`` of transformers loads, with the same logits.

    Args:
      folder: made where it does not exist.
      config: the architecture.
      params: its parameters.
      family_name: the family to write it as; when None, the first family that can express it.
      preferred: the ``model_type`` to try first.
      reads: the direction in which the model has learned to read. It decides between families that differ in nothing
        else.
      ids: special ids by role (``bos``, ``eos``, ``pad``, ``cls``, ``sep``, ``decoder_start``).
      generation: generation settings to write; when None, the special ids.
      dtype: dtype of the stored weights: float32, bfloat16 or float16.
      shard_bytes: largest size of a file.

    Returns:
      The family as which it was written.

    Raises:
      ValueError: no family, or not the one asked for, can express the model.
    """
    candidates = families_for(family_name, is_discriminator=EXTRAS in params, reads=reads)
    candidates.sort(key=lambda family: family.model_type != preferred)
    family, values = their_config(config, candidates, ids=ids or {})
    where = f"family {family.name!r}"
    arrays = jax.tree.map(np.asarray, params)
    tensors = exported_tensors(family.rules(values), arrays, where=where, unused=family.unused(config))
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(
        folder,
        {name: layout.shape([array.shape for array in ours]) for name, (layout, ours) in tensors.items()},
        lambda name: tensors[name][0].to_theirs(tensors[name][1]),
        dtype=np.dtype(jnp.dtype(dtype)),
        shard_bytes=shard_bytes,
    )
    write_json(folder / CONFIG, {**values, "torch_dtype": dtype}, indent=2)
    if family.form in ("decoder", "encoder_decoder"):
        special = {key: values[key] for key in _OF_GENERATION if values.get(key) is not None}
        generation = special if generation is None else generation
        write_json(folder / GENERATION, generation, indent=2)
    return family


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


def families_for(
    family_name: str | None, *, is_discriminator: bool = False, reads: Literal["forwards", "both_ways"] = "forwards"
) -> list[Family]:
    """Returns the families to try for an export, in this order; see :func:`save_pretrained`.

    Raises:
      ValueError: the family asked for does not exist, or holds models of another form.
    """
    of_form = {name: f for name, f in FAMILIES.items() if (f.form == "discriminator") == is_discriminator}
    if family_name is None:
        other = "encoder" if reads == "forwards" else "decoder"
        return sorted(of_form.values(), key=lambda family: family.form == other)
    if family_name not in of_form:
        raise ValueError(f"family {family_name!r} is none of those for this model: use one of {', '.join(of_form)}")
    return [of_form[family_name]]


def their_config(config: ModelConfig, candidates: Sequence[Family], *, ids: Ids) -> tuple[Family, dict[str, Any]]:
    """Returns the first family whose config.json, read back, describes the same model, and that config.json.

    Raises:
      ValueError: there is no such family; the message names what the nearest one cannot express.
    """
    nearest: tuple[int, str] | None = None
    for family in candidates:
        if family.unloadable(config):
            problem = f"transformers refuses a {family.name} of width {config.width} with {config.num_heads} heads"
            nearest = nearest or (len(dataclasses.fields(ModelConfig)), f"{problem}, which do not divide it")
            continue
        values = _values(family, config, ids)
        try:
            hf = HuggingFaceConfig(values, defaults=family.defaults)
            lost = structural_differences(config, family.read(hf, _names(family, values, config)))
        except (ValueError, TypeError) as error:
            nearest = nearest or (len(dataclasses.fields(ModelConfig)), f"{family.name}: {error}")
            continue
        if not lost:
            return family, values
        if nearest is None or len(lost) < nearest[0]:
            named = ", ".join(f"model.{name}={getattr(config, name)!r}" for name in lost)
            nearest = len(lost), f"{family.name} has no way to say {named}"
    assert nearest is not None
    asked = f"the family {candidates[0].name!r} cannot" if len(candidates) == 1 else "no family that lmjax knows can"
    raise ValueError(f"{asked} hold this model: {nearest[1]}")


def _values(family: Family, config: ModelConfig, ids: Ids) -> dict[str, Any]:
    common = {
        "architectures": [family.architecture(config)],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
    }
    special = {f"{role}_token_id": ids.get(role) for role in ("bos", "eos", "pad")}
    return {**common, **special, **family.write(without_ntk(config), ids)}


def _names(family: Family, values: Mapping[str, Any], config: ModelConfig) -> list[str]:
    """Returns the names of the tensors that an export would write."""
    shapes = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), module_of(config, family).shapes)
    try:
        return list(exported_tensors(family.rules(values), shapes, where="", unused=family.unused(config)))
    except ValueError:
        return []


def _with_todays_names(tensors: Mapping[str, np.ndarray], prefix: str) -> Renamed:
    """Returns the tensors under the names that transformers gives them today."""
    # A base model that was saved without a head lacks the prefix that its tensors have in a model with a head.
    added = "" if any(name.startswith(prefix) for name in tensors) else prefix
    return Renamed(tensors, {f"{added}{todays_name(name)}": name for name in tensors})
