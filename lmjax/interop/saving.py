"""Writes a model's folder in the format of transformers: ``config.json`` and safetensors."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.atomic_files import write_json
from lmjax.interop.comparison import structural_differences
from lmjax.interop.families import FAMILIES
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.pretrained import CONFIG, GENERATION, module_of
from lmjax.interop.rope_config import without_ntk
from lmjax.interop.table import exported_tensors
from lmjax.interop.tensors import SHARD_BYTES, write_weights
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params
from lmjax.models.with_extras import EXTRAS

_OF_GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")


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
