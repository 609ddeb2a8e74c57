"""Making a run of a model that transformers wrote."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.atomic_files import write_json
from lmjax.data.config import DataConfig
from lmjax.interop import Pretrained, load_pretrained
from lmjax.interop.hf_config import Passed
from lmjax.interop.published import keep_published
from lmjax.interop.surplus_tokens import without_surplus
from lmjax.interop.tokenizer_files import begins_with_bos, load_tokenizer_files
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params
from lmjax.models.with_extras import EXTRAS, MODEL, trained_spec
from lmjax.objectives import CausalLM, Denoising, MaskedLM, Objective, ReplacedToken, SpanCorruption
from lmjax.parallel.folder_lock import fresh_folder
from lmjax.runs.new_run import make_run
from lmjax.runs.opened import Opened, make_learner
from lmjax.tokenizers import Tokenizer, TokenizerConfig, Vocabulary, build_tokenizer
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.published import PUBLISHED
from lmjax.train.run_folder import TOKENIZER

SEQUENCE_LENGTH, SHORTEST = 1024, 16

NOTE = "import.json"
"""The file of a run that says where its model came from, and what of its config.json was not taken over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """A model of transformers as a run.

    Attributes:
      model_type: the name that transformers gives the family.
      config: the run's configuration.
      tokenizer: its tokenizer.
      params: its parameters.
      passed: keys of config.json that were not taken over.
      new_parameters: names of parameters that the folder does not hold; they are initialised.
      tensors_left_out: names of tensors that belong to other parts than the text model.
      tokens_without_rows: tokens that were left out, because the model's table has no rows for them.
    """

    model_type: str
    config: RunConfig
    tokenizer: Tokenizer
    params: Params
    passed: Passed
    new_parameters: Sequence[str]
    tensors_left_out: Sequence[str]
    tokens_without_rows: Sequence[str]


def import_hf(
    folder: pathlib.Path | str,
    run_folder: pathlib.Path | str,
    *,
    tokenizer: pathlib.Path | str | None = None,
    ignore: Sequence[str] = (),
) -> Converted:
    """Makes a run, at step 0, of a folder that transformers wrote (config.json, safetensors, tokenizer).

    Args:
      folder: the model's folder, as ``save_pretrained`` or a download leaves it.
      run_folder: the run folder to make.
      tokenizer: another tokenizer than that of the folder: a folder of ours, a .model, or a tokenizer.json.
      ignore: keys of config.json to treat as if it did not have them.

    Returns:
      What was converted, and what was not.

    Raises:
      ValueError: the folder cannot be read, or holds a model that is not implemented; or the run folder is not empty.
    """
    folder, run_folder = pathlib.Path(folder), pathlib.Path(run_folder)
    with fresh_folder(run_folder, "is being imported to"):
        converted, model = _convert(folder, run_folder, tokenizer=tokenizer, ignore=ignore)
        keep_published(folder, run_folder / PUBLISHED, model.hf_config, tokenizer=tokenizer is None)
        make_run(run_folder, converted.config, converted.tokenizer, converted.params)
        note = {
            "folder": str(folder),
            "model_type": converted.model_type,
            **dataclasses.asdict(converted.passed),
            "new_parameters": converted.new_parameters,
            "tensors_left_out": converted.tensors_left_out,
            "tokens_without_rows": converted.tokens_without_rows,
        }
        write_json(run_folder / NOTE, note, indent=2, ensure_ascii=False)
    return converted


def open_hf(folder: pathlib.Path) -> Opened:
    """Opens a folder that transformers wrote, as :func:`import_hf` would make a run of it, and writes nothing.

    Raises:
      ValueError: as :func:`import_hf`.
    """
    converted, _ = _convert(folder, folder)
    config, learner = make_learner(converted.config, converted.tokenizer)
    return Opened(folder, config, converted.tokenizer, learner, lambda: (converted.params, 0), imported=True)


def _convert(
    folder: pathlib.Path,
    run_folder: pathlib.Path,
    *,
    tokenizer: pathlib.Path | str | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Converted, Pretrained]:
    model = load_pretrained(folder, ignore=ignore)
    loaded, surplus = _tokenizer(folder, model, tokenizer)
    config = _run_config(folder, run_folder, model, loaded, own_tokenizer=tokenizer is None)
    params, new = _complete(config, jax.tree.map(jnp.asarray, model.params))
    converted = Converted(
        model_type=model.family.model_type,
        config=config,
        tokenizer=loaded,
        params=params,
        passed=model.passed,
        new_parameters=new,
        tensors_left_out=model.left_out,
        tokens_without_rows=surplus,
    )
    return converted, model


def _tokenizer(
    folder: pathlib.Path, model: Pretrained, other: pathlib.Path | str | None
) -> tuple[Tokenizer, list[str]]:
    """Returns the tokenizer, and the tokens of the folder's own that were left out of it."""
    surplus: list[str] = []
    if other is not None:
        tokenizer = build_tokenizer(TokenizerConfig(path=str(other), special_tokens=()), lambda: ())
    else:
        tokenizer = load_tokenizer_files(folder, model.hf_config)
        tokenizer, surplus = without_surplus(tokenizer, model.config.vocab_size)
    if tokenizer.vocabulary.size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocabulary.size} ids and the model's table {model.config.vocab_size} rows: "
            f"name the tokenizer it was trained with (--tokenizer)"
        )
    return tokenizer, surplus


def _run_config(
    folder: pathlib.Path, run_folder: pathlib.Path, model: Pretrained, tokenizer: Tokenizer, *, own_tokenizer: bool
) -> RunConfig:
    objective = _objective(model)
    length = _sequence_length(objective, model.config, tokenizer.vocabulary)
    is_decoder = model.family.form == "decoder"
    return RunConfig(
        name=run_folder.name,
        folder=str(run_folder),
        objective=objective,
        model=model.config,
        tokenizer=TokenizerConfig(path=str(run_folder / TOKENIZER)),
        data=DataConfig(
            add_bos=is_decoder and own_tokenizer and begins_with_bos(folder, tokenizer),
            add_eos=tokenizer.vocabulary.eos_id is not None,
        ),
        train=TrainConfig(sequence_length=length),
    )


def _sequence_length(objective: Objective, config: ModelConfig, vocabulary: Vocabulary) -> int:
    """Returns the longest of several lengths that the objective can have with this model and tokenizer.

    Raises:
      ValueError: it can have none of them, because the tokenizer lacks a token that it needs.
    """
    length = min(config.max_length, SEQUENCE_LENGTH)
    while True:
        try:
            objective.check(model=config, vocabulary=vocabulary, sequence_length=length)
            return length
        except ValueError:
            if length <= SHORTEST:
                raise
            length = max(length // 2, SHORTEST)


def _objective(model: Pretrained) -> Objective:
    """Returns the objective the model was trained with, as far as its form tells."""
    match model.family.form:
        case "decoder":
            return CausalLM()
        case "encoder":
            return MaskedLM()
        case "discriminator":
            return ReplacedToken(generator_ratio=_generator_ratio(model.config))
        case "encoder_decoder":
            return SpanCorruption(form="encoder_decoder") if model.family.name in ("t5", "mt5", "umt5") else Denoising()


def _generator_ratio(config: ModelConfig) -> float:
    """Returns the first of the paper's ratios that divides the sizes of the model."""
    for ratio in (1 / 4, 1 / 3, 1 / 2):
        with contextlib.suppress(ValueError):
            ReplacedToken(generator_ratio=ratio).generator_config(config)
            return ratio
    return 1.0


def _complete(config: RunConfig, params: Params) -> tuple[Params, list[str]]:
    """Returns the parameters of the run's objective, and the names of those that the folder does not hold.

    The latter are ELECTRA's generator, and the head of a model that was saved without one; they are initialised.
    """
    spec = trained_spec(lambda key: config.objective.build(config.model, rngs=nnx.Rngs(params=key)))
    given = params if EXTRAS in params else {MODEL: params}
    missing = {part: [name for name in spec.shapes[part] if name not in given.get(part, {})] for part in spec.shapes}
    if not any(missing.values()):
        return given, []

    def init(key: jax.Array) -> Params:
        fresh = spec.init(key)
        return {part: {name: fresh[part][name] for name in names} for part, names in missing.items()}

    added = jax.jit(init)(jax.random.key(config.train.seed))
    whole = {part: added[part] | given.get(part, {}) for part in spec.shapes}
    return whole, [name for names in missing.values() for name in names]
