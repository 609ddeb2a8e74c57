"""Every objective: jitted or not, on one device or eight, in one part or four, stopped and resumed, the same."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax import objectives
from lmjax.corruption import DenoiseConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.latent import LatentConfig
from lmjax.models.parameters import module_spec
from lmjax.models.routing import ExpertsConfig
from lmjax.objectives import (
    DPO,
    UL2,
    CausalLM,
    Contrastive,
    Denoising,
    FeatureSource,
    FillInMiddle,
    MaskedDiffusion,
    MaskedFrames,
    MaskedLM,
    MaskedReconstruction,
    Mixture,
    MultiTokenLM,
    Objective,
    PairwiseReward,
    Part,
    PrefixLM,
    ProfessorForcing,
    ReplacedToken,
    ScheduledSampling,
    ScoreEntropy,
    SegmentRecurrentLM,
    SentencePairs,
    SequenceUnlikelihoodLM,
    SequentialMultiTokenLM,
    SpanCorruption,
    SpanMaskedLM,
    UnlikelihoodLM,
    WholeWordMaskedLM,
)
from lmjax.objectives.parts.objective import all_terms
from lmjax.objectives.parts.token_objective import TokenObjective
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules.ramp import Ramp, at_step, extremes
from lmjax.train.step import Learner
from lmjax.types import Rows

MODEL = dataclasses.replace(
    tiny.MODEL,
    vocab_size=96,
    num_heads=4,
    head_width=8,
    num_layers=1,
    execution=ExecutionConfig(remat="none", scan_layers=False),
)
TWO_LAYERS = dataclasses.replace(MODEL, num_layers=2)
DEEPSEEK = dataclasses.replace(
    TWO_LAYERS,
    latent=LatentConfig(rank=12, rope_width=4, value_width=6),
    experts=ExpertsConfig(
        number=8, width=8, shared=1, first_dense=1, scores="sigmoid", groups=4, groups_per_token=2, balance_bias=True
    ),
)
ENCODER_DECODER = dataclasses.replace(MODEL, encoder_layers=1)
PAIR_HEAD = dataclasses.replace(MODEL, num_types=2, pooler=True, pair_head=True)
VOCABULARY = dataclasses.replace(
    tiny.VOCABULARY,
    size=96,
    cls_id=77,
    sep_id=78,
    sentinel_ids=tuple(range(95, 79, -1)),
    named_ids={"<fim_prefix>": 64, "<fim_suffix>": 65, "<fim_middle>": 66, "[R]": 67, "[S]": 68, "[X]": 69},
    byte_length_V=np.ones(96, np.int32),
    word_start_V=np.arange(96) % 3 == 0,
    sentence_end_V=np.arange(96) % 5 == 0,
)
NOISE = DenoiseConfig(permute_sentences=True, rotate=0.3, mask=0.1, delete=0.1, replace=0.1)
VALUES = FeatureSource(kind="values", width=2, offset=15.0, scale=15.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """An objective, and what it is trained with."""

    objective: Objective
    model: ModelConfig = MODEL
    rows: Callable[..., Rows] = tiny.random_rows
    """From ``seed`` and ``num_rows`` to rows; the default also takes their length."""
    length: int = 16
    num_rows: int = 8
    name: str = ""

    def batch(self, seed: int) -> Rows:
        """Rows of one step."""
        given = {"seed": seed, "num_rows": self.num_rows}
        if self.rows is tiny.random_rows:
            return tiny.random_rows(self.objective.row_length(self.length), **given)
        return self.rows(**given)

    def learner(self, **options) -> Learner:
        """On one device unless told otherwise."""
        objective = self.objective
        new_carry = functools.partial(objective.initial_carry, self.model, self.num_rows)
        return tiny.learner(objective, model=self.model, vocabulary=VOCABULARY, new_carry=new_carry, **options)


CASES = [
    Case(objective=CausalLM()),
    Case(
        objective=CausalLM(),
        model=DEEPSEEK,
        name="CausalLMOfDeepSeek",
    ),
    Case(objective=MaskedLM(rate=0.3)),
    Case(objective=PrefixLM()),
    Case(objective=SegmentRecurrentLM(memory_length=6), rows=functools.partial(tiny.random_rows, 17, packed=False)),
    Case(objective=WholeWordMaskedLM(rate=0.3), length=24),
    Case(objective=SpanMaskedLM(rate=0.3, boundary_weight=1.0), length=24),
    Case(objective=SentencePairs(rate=0.3, tokens_per_pair=8, cut_at="tokens"), model=PAIR_HEAD),
    Case(objective=FillInMiddle(documents_per_row=2), length=24),
    Case(objective=SpanCorruption(documents_per_row=2), length=24),
    Case(
        objective=SpanCorruption(form="encoder_decoder", documents_per_row=2),
        model=ENCODER_DECODER,
        length=24,
        name="SpanCorruptionEncoderDecoder",
    ),
    Case(objective=UL2(documents_per_row=2), length=24),
    Case(
        objective=UL2(form="encoder_decoder", documents_per_row=2),
        model=ENCODER_DECODER,
        length=24,
        name="UL2EncoderDecoder",
    ),
    Case(objective=Denoising(noise=NOISE), model=ENCODER_DECODER, length=24),
    Case(objective=MaskedDiffusion(time_conditioning=True)),
    Case(objective=ScoreEntropy()),
    Case(objective=UnlikelihoodLM(candidates="both", margin_weight=1.0)),
    Case(objective=SequenceUnlikelihoodLM(prompt_length=2, free_tokens=3, ngram=1)),
    Case(objective=MultiTokenLM(num_heads=2), model=TWO_LAYERS),
    Case(objective=SequentialMultiTokenLM(num_heads=2)),
    Case(objective=ScheduledSampling(teacher_rate=0.5)),
    Case(
        objective=ProfessorForcing(prompt_length=2, free_tokens=3, discriminator_below=1.0, fooling_above=0.0),
    ),
    Case(objective=ReplacedToken(rate=0.3, generator_ratio=0.5)),
    Case(
        objective=Contrastive(pairs="given", negatives=1, temperature=0.5, symmetric=True, learn_temperature=True),
        rows=functools.partial(tiny.example_rows, 3, 6),
    ),
    Case(
        objective=Contrastive(pairs="given", negatives=1, separate_encoders=True, share_negatives=False),
        rows=functools.partial(tiny.example_rows, 3, 6),
        name="ContrastiveTwoEncoders",
    ),
    Case(objective=DPO(beta=0.3, label_smoothing=0.1), rows=functools.partial(tiny.example_rows, 2, 9, prompt=3)),
    Case(objective=PairwiseReward(margin=0.5), rows=functools.partial(tiny.example_rows, 2, 8)),
    Case(objective=MaskedReconstruction(source=VALUES, rate=0.5, decoder_width=16, decoder_layers=1, decoder_heads=4)),
    Case(objective=MaskedFrames(source=VALUES, start_rate=0.15, span=3, alpha=0.5, num_clusters=8, cluster_width=8)),
    Case(
        objective=Mixture(
            parts=(Part(name="causal", objective=CausalLM()), Part(name="masked", objective=MaskedLM(rate=0.3))),
            by="row",
        ),
        num_rows=16,
    ),
]


def name_of(case: Case) -> str:
    return case.name or type(case.objective).__name__


def only_corrupts(case: Case) -> bool:
    """Whether the objective differs from others in what it makes of rows alone: the loss is that of all tokens."""
    kind = type(case.objective)
    return issubclass(kind, TokenObjective) and kind.terms is TokenObjective.terms


WHOLE = ("CausalLM", "CausalLMOfDeepSeek", "MaskedLM", "SpanCorruptionEncoderDecoder")
"""Of the objectives that only corrupt, those of which whole steps are compared: each mask, and both stacks."""
CORRUPTING = [case for case in CASES if only_corrupts(case) and name_of(case) not in WHOLE]


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if case not in CORRUPTING], ids=name_of)
def test_eight_devices_and_four_parts_and_a_resume_change_nothing(case, tmp_path):
    """Three steps on ragged rows: a mean of microbatches' or devices' means would be off, as would lost moments.

    In one part those that couple the examples of a batch.
    """
    batches = [case.batch(seed) for seed in range(3)]
    alone = case.learner()
    start = alone.init(0)
    reference = tiny.train_metrics(alone, batches, start=start)
    losses = [numbers["loss"] for numbers in reference]
    assert max(losses) - min(losses) > 1e-3
    parts = 1 if case.objective.traits.couples_examples else 4
    split = case.learner(mesh=MeshConfig(fsdp=2, tensor=4), num_devices=8, microbatches=parts)
    found = tiny.train_metrics(split, batches, start=start)
    for ours, theirs in zip(found, reference, strict=True):
        for name in [name for name in theirs if name.endswith("loss")]:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-4)
    assert tiny.train_metrics(split, batches, start=start, saved_in=tmp_path) == found


@pytest.mark.parametrize("case", CORRUPTING, ids=name_of)
def test_eight_devices_corrupt_rows_as_one_does(case):
    """A step corrupts the whole batch before it cuts it into parts; the rest is the same for all of these."""
    learner = case.learner(mesh=MeshConfig(fsdp=2, tensor=4), num_devices=8)
    corrupt = jax.jit(functools.partial(case.objective.corrupt, vocabulary=VOCABULARY))
    key, rows = jax.random.key(3), case.batch(0)
    alone = corrupt(key, rows)
    assert int(jnp.sum(alone.weights["loss"] > 0)) > 0
    with jax.set_mesh(learner.mesh):
        spread = corrupt(key, jax.device_put(rows, learner.row_sharding))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), spread, alone)


@pytest.mark.parametrize("case", [case for case in CASES if case not in CORRUPTING], ids=name_of)
def test_experts_are_balanced_in_every_layer_and_row(case):
    objective = case.objective
    model = dataclasses.replace(case.model, experts=ExpertsConfig(number=4, per_token=2, width=8))
    spec = module_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))

    @jax.jit
    def terms(params, rows):
        batch = objective.corrupt(jax.random.key(0), rows, VOCABULARY)
        batch = dataclasses.replace(
            batch,
            weights=jax.tree.map(lambda w: w / jnp.sum(w), batch.weights),
            carry=objective.initial_carry(model, case.num_rows),
        )
        return all_terms(objective, spec.bind(params), batch, None)[0]

    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(spec.shapes)]
    # A frozen copy balances nothing.
    num_layers = sum("router" in path and "reference" not in path for path in paths)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), spec.shapes)
    found = {name: value for name, value in terms(zeros, case.batch(0)).items() if name.endswith("experts/loss")}
    # A router that says nothing is at 1 in every layer and row, and rows weigh 1 together.
    assert found and num_layers >= model.num_layers
    np.testing.assert_allclose(list(found.values()), 0.01 * num_layers, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_whatever_may_follow_a_schedule_does_in_one_compiled_step(case):
    """All such fields of an objective at once; a branch on the value of one would fail to trace."""
    objective = case.objective
    if isinstance(objective, Contrastive):
        objective = dataclasses.replace(objective, learn_temperature=False)
    scalars = [name for name, kind in typing.get_type_hints(type(objective)).items() if Ramp in typing.get_args(kind)]
    values = {name: extremes(getattr(objective, name))[0] for name in scalars}
    ramps = {name: Ramp(start=value, end=0.9 * value, steps=4) for name, value in values.items() if value}
    scheduled = dataclasses.replace(objective, **ramps)
    spec = module_spec(lambda key: scheduled.build(case.model, rngs=nnx.Rngs(params=key)))

    def total(step, params, rows):
        there = at_step(scheduled, step)
        batch = there.corrupt(jax.random.key(0), rows, VOCABULARY)
        batch = dataclasses.replace(batch, carry=there.initial_carry(case.model, case.num_rows))
        return there.total(all_terms(there, spec.bind(params), batch, None)[0])

    step = jax.ShapeDtypeStruct((), jnp.int32)
    assert jax.eval_shape(total, step, spec.shapes, case.batch(0)).shape == ()


def test_every_objective_is_among_the_cases():
    public = {getattr(objectives, name) for name in objectives.__all__}
    classes = {kind for kind in public if issubclass(kind, Objective)}
    whole = {kind for kind in classes if not inspect.isabstract(kind)}
    assert whole == {type(case.objective) for case in CASES}
