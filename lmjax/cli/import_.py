"""`lmjax import DIR RUN`: a model of transformers as a run that can be trained on, evaluated and sampled."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from lmjax.cli.arguments import parse_arguments
from lmjax.data.config import DataConfig
from lmjax.interop import Pretrained, load_pretrained
from lmjax.interop.published import keep_published
from lmjax.interop.surplus_tokens import without_surplus
from lmjax.interop.tokenizer_files import begins_with_bos, load_tokenizer_files
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params, module_spec
from lmjax.objectives import CausalLM, Denoising, MaskedLM, Objective, ReplacedToken, SpanCorruption
from lmjax.parallel.folder_lock import fresh_folder
from lmjax.tokenizers import Tokenizer, TokenizerConfig, Vocabulary, build_tokenizer
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.new_run import make_run
from lmjax.train.published import PUBLISHED
from lmjax.train.run_folder import TOKENIZER

SEQUENCE_LENGTH, SHORTEST = 1024, 16

NOTE = "import.json"
"""File of a run that says where its model came from and what of its config.json was not taken over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Read a folder of transformers (config.json, safetensors, tokenizer) and make a run of it, at step 0."""

    folder: tyro.conf.Positional[pathlib.Path]
    """The model's folder, as save_pretrained or a download leaves it."""
    run: tyro.conf.Positional[pathlib.Path]
    """The run folder to make."""
    tokenizer: pathlib.Path | None = None
    """Another tokenizer than that of the folder: a folder of ours, a .model, or a tokenizer.json."""
    ignore: tuple[str, ...] = ()
    """Keys of config.json to treat as if it did not have them; import.json of the run names them."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(ImportArguments, arguments, command="import")
    with fresh_folder(options.run, "is being imported to"):
        _import(options)


def _import(options: ImportArguments) -> None:
    model = load_pretrained(options.folder, ignore=options.ignore)
    tokenizer, surplus = _tokenizer(options, model)
    config = _run_config(options, model, tokenizer)
    params, new = _complete(config, jax.tree.map(jnp.asarray, model.params))
    own_tokenizer = options.tokenizer is None
    keep_published(options.folder, options.run / PUBLISHED, model.hf_config, tokenizer=own_tokenizer)
    make_run(options.run, config, tokenizer, params)
    note = {
        "folder": str(options.folder),
        "model_type": model.family.model_type,
        **dataclasses.asdict(model.passed),
        "new_parameters": new,
        "tensors_left_out": model.left_out,
        "tokens_without_rows": surplus,
    }
    (options.run / NOTE).write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _tell(model, new, surplus)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{model.family.model_type}, {count:,} parameters, {tokenizer.vocabulary.size} tokens: {options.run}")
    print(f"train on: lmjax train RECIPE --train.init-from {options.run}")


def _tell(model: Pretrained, new: Sequence[str], surplus: Sequence[str]) -> None:
    """Prints what is not as it was in the folder."""
    passed = model.passed
    for what, keys in (
        ("ignored, as asked", passed.ignored),
        (f"never read by transformers for {model.family.model_type}", passed.not_read),
        ("only for training, and not taken over", passed.training_only),
    ):
        if keys:
            print(f"{what}: {', '.join(f'{key}={json.dumps(value)}' for key, value in keys.items())}")
    if model.left_out:
        parts = sorted({name.removeprefix("model.").split(".")[0] for name in model.left_out})
        print(f"left out, for only text is read: {len(model.left_out)} tensors of {', '.join(parts)}")
    if new:
        print(f"new, for the folder does not hold them: {', '.join(new)}")
    if surplus:
        print(f"left out of the tokenizer, for the model's table has no rows for them: {', '.join(surplus)}")


def _tokenizer(options: ImportArguments, model: Pretrained) -> tuple[Tokenizer, list[str]]:
    """The tokenizer, and the tokens of the folder's that it is without."""
    surplus: list[str] = []
    if options.tokenizer is not None:
        tokenizer = build_tokenizer(TokenizerConfig(path=str(options.tokenizer), special_tokens=()), lambda: ())
    else:
        tokenizer = load_tokenizer_files(options.folder, model.hf_config)
        tokenizer, surplus = without_surplus(tokenizer, model.config.vocab_size)
    if tokenizer.vocabulary.size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocabulary.size} ids and the model's table {model.config.vocab_size} rows: "
            f"name the tokenizer it was trained with (--tokenizer)"
        )
    return tokenizer, surplus


def _run_config(options: ImportArguments, model: Pretrained, tokenizer: Tokenizer) -> RunConfig:
    objective = _objective(model)
    length = _sequence_length(objective, model.config, tokenizer.vocabulary)
    is_decoder = model.family.form == "decoder"
    return RunConfig(
        name=options.run.name,
        folder=str(options.run),
        objective=objective,
        model=model.config,
        tokenizer=TokenizerConfig(path=str(options.run / TOKENIZER)),
        data=DataConfig(
            add_bos=is_decoder and options.tokenizer is None and begins_with_bos(options.folder, tokenizer),
            add_eos=tokenizer.vocabulary.eos_id is not None,
        ),
        train=TrainConfig(sequence_length=length),
    )


def _sequence_length(objective: Objective, config: ModelConfig, vocabulary: Vocabulary) -> int:
    """The longest of some lengths that the objective can have with this model and tokenizer.

    Raises:
      ValueError: it can have none, for a token it needs is not there.
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
    """What the model was trained for, as far as its form tells."""
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
    """The first of the paper's ratios that divides the sizes."""
    for ratio in (1 / 4, 1 / 3, 1 / 2):
        with contextlib.suppress(ValueError):
            ReplacedToken(generator_ratio=ratio).generator_config(config)
            return ratio
    return 1.0


def _complete(config: RunConfig, params: Params) -> tuple[Params, list[str]]:
    """The parameters of the run's objective, and the names of those the folder does not hold.

    New are ELECTRA's generator, and the head where a model was saved without one.
    """
    spec = module_spec(lambda key: config.objective.build(config.model, rngs=nnx.Rngs(params=key)))
    added = [name for name in spec.shapes if name not in params]
    if not added:
        return params, []
    init = jax.jit(lambda key: {name: part for name, part in spec.init(key).items() if name in added})
    return {**init(jax.random.key(config.train.seed)), **params}, added
