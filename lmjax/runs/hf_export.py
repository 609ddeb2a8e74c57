"""Writing a run's model as a folder that transformers loads."""

import dataclasses
import pathlib
from typing import Literal

from lmjax.interop import FAMILIES, save_pretrained
from lmjax.interop.published import read_published
from lmjax.interop.tokenizer_export import save_tokenizer_files
from lmjax.models.with_extras import EXTRAS, MODEL
from lmjax.naming import naming_file
from lmjax.objectives import ReplacedToken
from lmjax.parallel.folder_lock import fresh_folder
from lmjax.parallel.signals import kept
from lmjax.runs.marks import text_marks
from lmjax.runs.opened import Opened
from lmjax.tokenizers.declared import ROLES
from lmjax.train.components import leading
from lmjax.train.published import PUBLISHED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
      architecture: the class of transformers that loads the model.
      step: the number of updates the parameters had.
      tokenizer_problem: why the tokenizer's files are incomplete, or None.
      families_refused: families that would express the model, but that transformers cannot load with its sizes.
    """

    architecture: str
    step: int
    tokenizer_problem: str | None
    families_refused: tuple[str, ...]


def export_hf(
    run: Opened,
    folder: pathlib.Path | str,
    *,
    family: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> Exported:
    """Writes config.json, safetensors and the tokenizer, so that AutoModel of transformers loads them.

    Args:
      run: the run, see :func:`lmjax.runs.open`.
      folder: the folder to make.
      family: the family to write it as (a ``model_type``); when None, the first that can express the model.
      dtype: what the weights are stored as; float32 loses nothing.

    Raises:
      ValueError: no family can express the model, or the folder is not empty.
    """
    folder = pathlib.Path(folder)
    with fresh_folder(folder, "is being exported to"):
        return _export(run, folder, family=family, dtype=dtype)


def _export(
    run: Opened, folder: pathlib.Path, *, family: str | None, dtype: Literal["float32", "bfloat16", "float16"]
) -> Exported:
    objective, config = run.config.objective, run.config.model
    if config.positions != "learned":
        # Without learned positions it only tells readers how long the texts of the training were.
        config = dataclasses.replace(config, max_length=max(config.max_length, run.config.train.sequence_length))
    vocabulary = run.tokenizer.vocabulary
    params = run.params[MODEL]
    if isinstance(leading(objective), ReplacedToken):
        # A discriminator is nothing without its classifier; the generator is not written.
        extras = {name: part for name, part in run.params[EXTRAS].items() if name != "generator"}
        params = {MODEL: params, EXTRAS: extras}
    published = read_published(run.folder / PUBLISHED, run.tokenizer)
    ids = {role: getattr(vocabulary, f"{role}_id") for role in ROLES}
    unfinished = kept(f"{folder} is not finished: delete it, and run the command again")
    with naming_file(folder), unfinished:
        written = save_pretrained(
            folder,
            config,
            params,
            family_name=family,
            preferred=None if published is None else published.config.get("model_type"),
            reads="both_ways" if objective.traits.attention == "bidirectional" else "forwards",
            ids=ids if published is None else ids | published.ids,
            generation=None if published is None else published.generation,
            dtype=dtype,
        )
        problem = save_tokenizer_files(
            folder,
            run.tokenizer,
            max_length=config.max_length,
            marks=text_marks(run),
            published=published,
            model_type=written.model_type,
        )
    refused = () if family is not None else tuple(name for name, f in FAMILIES.items() if f.unloadable(config))
    return Exported(
        architecture=written.architecture(config), step=run.step, tokenizer_problem=problem, families_refused=refused
    )
