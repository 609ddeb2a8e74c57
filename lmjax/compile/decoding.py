"""Reading prompts and writing text as `lmjax sample` does both, compiled for chips that are not here.

Two programs are compiled: one reads the prompts (prefill), the other writes a few tokens after them. The second is
compiled for the layout in which the first leaves its caches.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.compile.compiled import Compiled, Work, compile_program
from lmjax.compile.step import resolved_learner
from lmjax.compile.topology import Topology
from lmjax.decode import sample
from lmjax.decode.logits import SamplingConfig
from lmjax.decode.prompt_batch import Plan
from lmjax.decode.prompts import Prompts, laid_out
from lmjax.decode.ready import ready_spec
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import ModuleSpec
from lmjax.models.summary import ModelSummary, attention_flops, summarize
from lmjax.models.with_extras import model_spec
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.parts.naming_tokens import check_names_tokens
from lmjax.parallel.mesh import mesh_axes_of, partition_spec
from lmjax.runs.request import NEW_TOKENS, Request
from lmjax.runs.writing import EVERY
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.components import leading, paired
from lmjax.train.config import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writing:
    """How much text is written; None for a default.

    Attributes:
      batch_size: texts at the same time; by default as many as ``lmjax sample`` writes, or the next multiple of the
        devices that share them.
      prompt_length: tokens of each prompt; by default half a row of the recipe.
      max_new_tokens: tokens to add to each; by default as many as ``lmjax sample`` adds.
    """

    batch_size: int | None = None
    prompt_length: int | None = None
    max_new_tokens: int | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reads:
    """What a chip has to read from its memory for each token of its rows.

    Attributes:
      weights: bytes of matrices, in the dtype of the arithmetic. A matrix that is split over ``fsdp`` is gathered
        first, and then read whole.
      cache: bytes of the caches, and of what an encoder has read.
    """

    weights: int
    cache: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledDecoding:
    """Prefill and decoding, and what the compiler said of them.

    Attributes:
      config: the recipe, resolved.
      summary: the parameters of the model.
      prompts: their arrays, which show the sizes.
      prompt_length: tokens of each prompt.
      prefill: the program that reads the prompts.
      decode: the program that adds :data:`lmjax.runs.writing.EVERY` tokens to each; None if the first does not fit.
      reads: what a chip reads for a token of the second; None if the first does not fit.
    """

    config: RunConfig
    summary: ModelSummary
    prompts: Prompts
    prompt_length: int
    prefill: Compiled
    decode: Compiled | None
    reads: Reads | None

    @property
    def cache_length(self) -> int:
        """The positions that the cache of a row has room for."""
        return self.prompts.tokens_BT.shape[1] + self.prompts.room


def compile_decoding(
    config: RunConfig, topology: Topology, writing: Writing, *, log_folder: str | None = None
) -> CompiledDecoding:
    """Compiles what ``lmjax sample`` runs, split over the mesh of a recipe.

    Args:
      config: of the recipe.
      topology: the chips.
      writing: how much text.
      log_folder: where libtpu writes its warnings.

    Raises:
      ValueError: the model does not write text token by token, or the text is too long for it; or objective, model,
        batch and mesh do not go together.
    """
    check_writes(config)
    config, learner = resolved_learner(_in_full_precision(config), topology)
    mesh, vocabulary = learner.mesh, learner.vocabulary
    spec = model_spec(lambda key: config.objective.build(config.model, rngs=nnx.Rngs(params=key)))
    prompt_length, given = prompts_of(config, spec, vocabulary, mesh, writing)
    summary = summarize(spec, config.model, sequence_length=prompt_length)
    ready, held = ready_spec(spec, "tpu"), _stacked_bytes(spec, mesh)
    params, plan = (_abstract(ready.shapes, ready.shardings(mesh)),), _plan(config, ready, vocabulary)
    prompts, keys_B = _abstract_prompts(given, mesh)
    options: dict[str, Any] = {"topology": topology, "mesh": mesh, "log_folder": log_folder}
    with jax.set_mesh(mesh):
        lowered = sample.begin.lower(params, *prompts, plan=plan, room=given.room)
    work = _prefill_work(config, summary, given, prompt_length, held)
    prefill, compiled = compile_program(lowered, work=work, **options)
    found = CompiledDecoding(
        config=config,
        summary=summary,
        prompts=given,
        prompt_length=prompt_length,
        prefill=prefill,
        decode=None,
        reads=None,
    )
    if compiled is None:
        return found
    drafts = _abstract(lowered.out_info, compiled.output_shardings)
    with jax.set_mesh(mesh):
        until = jax.ShapeDtypeStruct((), np.int32)
        lowered = sample.advance.lower(params, drafts, keys_B, until, plan=plan)
    decode, _ = compile_program(lowered, work=_decode_work(found, held), **options)
    caches = jax.tree.leaves((drafts[0].caches, drafts[0].reading))
    reads = Reads(
        weights=_weight_bytes(ready, config.model, mesh), cache=sum(_bytes_of_a_chip(leaf) for leaf in caches)
    )
    return dataclasses.replace(found, decode=decode, reads=reads)


def _in_full_precision(config: RunConfig) -> RunConfig:
    """Returns the recipe without products of 8 bits, which are for training alone."""
    execution = dataclasses.replace(config.model.execution, low_precision="none")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, execution=execution))


def check_writes(config: RunConfig) -> None:
    """Refuses a recipe whose model does not write one token after the other.

    Raises:
      ValueError: saying what it does instead.
    """
    check_names_tokens(config.objective)
    objective = leading(config.objective)
    if isinstance(objective, MaskedDiffusion) or objective.traits.attention == "bidirectional":
        raise ValueError(
            f"--decode: {type(objective).__name__} does not train a model that writes one token after the other, so "
            f"there are no caches: leave it out, or use --evaluation"
        )


def prompts_of(
    config: RunConfig, spec: ModuleSpec, vocabulary: Vocabulary, mesh: Mesh, writing: Writing
) -> tuple[int, Prompts]:
    """Returns the tokens of each prompt, and prompts of that length.

    Raises:
      ValueError: the model has not learned as many positions, or the rows cannot be split over the mesh.
    """
    ways = math.prod(mesh.shape[axis] for axis in mesh_axes_of("batch"))
    batch_size = writing.batch_size or -(-Request().batch_size // ways) * ways
    if batch_size % ways:
        raise ValueError(
            f"--batch-size {batch_size} cannot be split over {ways} devices "
            f"({' x '.join(f'mesh.{axis}' for axis in mesh_axes_of('batch'))}): make it a multiple of {ways}, or use "
            f"mesh.tensor"
        )
    prompt_length = writing.prompt_length or max(config.train.sequence_length // 2, 1)
    pair, model = paired(config.objective), config.model
    learned = model.max_length if model.positions == "learned" else None
    new = NEW_TOKENS if learned is None else min(NEW_TOKENS, max(learned - (1 if pair else prompt_length), 1))
    given = laid_out(
        [[0] * prompt_length] * batch_size,
        [(spec, learned)],
        max_new_tokens=writing.max_new_tokens or new,
        attention=config.objective.traits.attention,
        start_id=None if pair is None else pair.start_id(vocabulary),
    )
    return prompt_length, given


def _abstract_prompts(given: Prompts, mesh: Mesh) -> tuple[tuple[Any, ...], Any]:
    """Returns the shapes of tokens, lengths and what an encoder reads, and of the rows' keys; rows are split."""
    rows = NamedSharding(mesh, PartitionSpec(mesh_axes_of("batch")))
    keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(given.lengths_B)))
    arrays = (given.tokens_BT, given.lengths_B, given.read), keys_B
    return _abstract(arrays, jax.tree.map(lambda _: rows, arrays))


def _plan(config: RunConfig, ready: ModuleSpec, vocabulary: Vocabulary) -> Plan:
    return Plan(
        specs=(ready,),
        sampling=SamplingConfig(),
        num_ids=vocabulary.size,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        prefix=config.objective.traits.attention == "prefix",
    )


def _abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )


def _prefill_work(config: RunConfig, summary: ModelSummary, given: Prompts, prompt_length: int, held: int) -> Work:
    model = config.model
    if given.read is not None:
        flops = 2 * summary.read_products + attention_flops(model.encoder, prompt_length) / 3
        share = prompt_length / given.read[0].shape[1]
    else:
        # The last state of a prompt is kept, and its logits are computed when the first token is chosen.
        output_layer = model.vocab_size * model.table_width
        flops = 2 * (summary.written_products - output_layer) + attention_flops(model, prompt_length) / 3
        share = visible_share(given, prompt_length, model, prefix=config.objective.traits.attention == "prefix")
    tokens = len(given.lengths_B) * prompt_length
    return Work(tokens=tokens, flops_per_token=flops, visible_share=share, held=held)


def _decode_work(found: CompiledDecoding, held: int) -> Work:
    model, read = found.config.model, found.prompts.read
    cross = 0 if read is None else 4 * model.num_layers * model.num_heads * model.key_width * found.prompt_length
    flops = 2 * found.summary.written_products + attention_flops(model, found.cache_length) / 3 + cross
    return Work(
        tokens=len(found.prompts.lengths_B) * EVERY,
        flops_per_token=flops,
        visible_share=1.0,
        held=held,
        written=EVERY,
    )


def visible_share(given: Prompts, prompt_length: int, model: ModelConfig, *, prefix: bool) -> float:
    """Returns the share of all pairs of a prompt's positions and cache slots that the mask shows.

    Args:
      given: the prompts.
      prompt_length: tokens of each; the positions of the padding see all slots.
      model: for the windows of its layers.
      prefix: whether the tokens of a prompt see all of it.
    """
    padded, slots = given.tokens_BT.shape[1], given.tokens_BT.shape[1] + given.room
    end_T = np.full(padded, slots)
    end_T[:prompt_length] = prompt_length if prefix else np.arange(1, prompt_length + 1)
    shown = [np.minimum(end_T, window or slots).mean() / slots for window in model.windows]
    return float(np.mean(shown))


def _stacked_bytes(spec: ModuleSpec, mesh: Mesh) -> int:
    """Returns the bytes of a chip of the layers in their stacks, which the run keeps beside those out of them."""
    leaves = _abstract(spec.shapes, spec.shardings(mesh))
    axes = jax.tree.leaves(spec.axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    pairs = zip(jax.tree.leaves(leaves), axes, strict=True)
    return sum(_bytes_of_a_chip(leaf) for leaf, names in pairs if "layers" in names)


def _bytes_of_a_chip(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _weight_bytes(ready: ModuleSpec, model: ModelConfig, mesh: Mesh) -> int:
    """Returns the bytes of the matrices that a chip multiplies a token with, in the dtype of the arithmetic."""
    total = 0.0
    axes = jax.tree.leaves(ready.axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    leaves = jax.tree_util.tree_leaves_with_path(ready.shapes)
    for (path, leaf), names, kind in zip(leaves, axes, jax.tree.leaves(ready.kinds), strict=True):
        keys = {entry.key for entry in path}
        of_encoder = "encoder" in keys or ("cross_attention" in keys and keys & {"key", "value"})
        if of_encoder or kind == "position" or (kind == "embedding" and not model.tie_embeddings):
            continue
        entries = partition_spec(names, leaf.shape, mesh)
        axes_used = {axis for entry in entries for axis in ((entry,) if isinstance(entry, str) else entry or ())}
        split = axes_used & {"tensor", "expert"}
        uses = model.num_layers if model.share_layers and "tail" in keys else 1
        total += uses * math.prod(leaf.shape) / math.prod(mesh.shape[axis] for axis in split)
    return round(total * jnp.dtype(model.dtype).itemsize)
