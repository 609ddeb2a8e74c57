"""Prefill and decoding: what is compiled, on CPU devices in place of chips; its times by hand; what is refused."""

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import pytest

from lmjax.cli.compile import run
from lmjax.compile.compiled import Work, with_rounds
from lmjax.compile.decoding import Writing, compile_decoding, visible_share
from lmjax.compile.hlo import parse
from lmjax.compile.report import decoding_comparison, decoding_tables
from lmjax.compile.roofline import decode_times
from lmjax.compile.topology import CHIPS, Topology
from lmjax.compile.uses import trip_count, uses
from lmjax.decode.prompts import laid_out
from lmjax.models.config import ModelConfig
from lmjax.objectives import CausalLM, MaskedDiffusion, MaskedLM, PairwiseReward, SpanCorruption
from lmjax.parallel.mesh import MeshConfig
from lmjax.runs.writing import EVERY
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.config import RunConfig, TrainConfig

MODEL = ModelConfig(width=32, num_layers=2, num_heads=4, num_kv_heads=2, feedforward_width=48)
V5E = CHIPS["v5e"]


def recipe(**changes) -> RunConfig:
    given: dict[str, Any] = {
        "name": "small",
        "model": MODEL,
        "objective": CausalLM(),
        "tokenizer": TokenizerConfig(kind="bytes"),
        "train": TrainConfig(batch_size=4, sequence_length=32),
        "mesh": MeshConfig(fsdp=2, tensor=2),
    }
    return RunConfig(**given | changes)


def chips(number: int) -> Topology:
    """CPU devices, said to be TPUs."""
    return Topology(name="v5e:2x2", chip=V5E, extents=(2, 2), devices=jax.devices()[:number])


@pytest.fixture(scope="module")
def compiled():
    return compile_decoding(recipe(), chips(4), Writing(batch_size=6, prompt_length=20, max_new_tokens=40))


def test_caches_and_weights_are_split_over_the_mesh(compiled):
    # A prompt is padded to 32, and the new tokens' room to 64. Two rows of keys and values for each layer.
    assert compiled.cache_length == 32 + 64
    positions = 6 * 96
    cache = 2 * 2 * positions * 2 * 8 * 4
    assert compiled.reads.cache == cache / 4
    # The rows' embedding is looked up; norms stay whole; everything else is split over tensor, and gathered over fsdp.
    vocabulary = compiled.config.model.vocab_size
    attention, feedforward = 32 * 8 * (4 + 2 + 2 + 4), 3 * 32 * 48
    matrices = 2 * (attention + feedforward) + 32 * vocabulary
    norms = compiled.summary.components["norms"]
    assert compiled.reads.weights == 4 * (matrices / 2 + norms)
    # What goes into the second program is what the first has made, in its layout.
    assert compiled.decode.memory.arguments > compiled.reads.cache + matrices / 4 * 4
    # The layers in their stacks stay beside those out of them, split over all four devices, but for their norms.
    stacked = 4 * (2 * (attention + feedforward) / 4 + norms - 32)
    assert compiled.decode.memory.held == compiled.prefill.memory.held == stacked
    assert compiled.prefill.memory.other >= compiled.reads.cache


def test_flops_are_those_of_what_is_computed(compiled):
    products = 2 * (32 * 8 * 12 + 3 * 32 * 48) + compiled.summary.components["norms"]
    head = 32 * compiled.config.model.vocab_size
    pairs = 2 * 2 * 4 * (8 + 8)
    assert compiled.prefill.work.flops_per_token == 2 * products + pairs * 20
    assert compiled.decode.work.flops_per_token == 2 * (products + head) + pairs * 96
    assert (compiled.prefill.work.tokens, compiled.decode.work.tokens) == (6 * 20, 6 * EVERY)


def test_the_loop_that_writes_runs_once_for_each_token(compiled):
    program = compiled.decode.program
    loops = [use for use in uses(program) if use.instruction.opcode == "while" and use.computation == program.entry]
    assert EVERY in [trip_count(program, use.instruction) for use in loops]


def test_an_encoder_reads_the_prompts_and_its_states_are_part_of_the_caches():
    model = dataclasses.replace(MODEL, num_layers=1, encoder_layers=1, positions="relative")
    written = Writing(batch_size=2, prompt_length=12, max_new_tokens=5)
    mesh, tokens = MeshConfig(data=2), TokenizerConfig(kind="bytes", num_sentinels=20)
    found = compile_decoding(
        recipe(model=model, objective=SpanCorruption(form="encoder_decoder"), tokenizer=tokens, mesh=mesh),
        chips(2),
        written,
    )
    # The text begins with one token; 16 positions of the encoder are remembered.
    assert found.cache_length == 1 + 64 and found.prompts.read is not None
    keys_and_values = 2 * 2 * 8 * 4
    lengths = 4
    assert found.reads is not None and found.reads.cache == keys_and_values * (65 + 16) + lengths
    # What the encoder multiplies, and what makes keys and values of its states, is not read again; the table of
    # positions is looked up.
    vocabulary, attention, feedforward = found.config.model.vocab_size, 32 * 8 * 12, 3 * 32 * 48
    norms = 4 * 32
    cross = 32 * 8 * (4 + 4)
    assert found.reads.weights == 4 * (attention + cross + feedforward + 32 * vocabulary + norms)


LOOP = """HloModule m

%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %c = pred[] compare(%i, %i), direction=LT
}

%body (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[], f32[8]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %x = f32[8] get-tuple-element(%q), index=1
  %y = f32[8] negate(%x), backend_config={"estimated_cycles":"3000"}
  ROOT %next = (s32[], f32[8]) tuple(%j, %y)
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[], f32[8]) parameter(0)
  %z = f32[8] sine(%a), backend_config={"estimated_cycles":"12000"}
  ROOT %w = (s32[], f32[8]) while(%a), condition=%cond, body=%body, metadata={op_name="NAME"}
}
"""


@pytest.mark.parametrize(("name", "times"), [("jit(advance)/while", 4), ("jit(advance)/sort/while", 1)])
def test_what_is_done_once_a_call_is_shared_by_its_tokens(name, times):
    work = Work(tokens=8, flops_per_token=1.0, visible_share=1.0, written=4)
    program = with_rounds(parse(LOOP.replace("NAME", name)), work)
    assert sum((use.instruction.cycles or 0) * use.times for use in uses(program)) == 12000 + times * 3000


def found(*, weights=0, cache=0, flops=0.0):
    topology = types.SimpleNamespace(chip=V5E)
    decode = types.SimpleNamespace(
        topology=topology,
        work=Work(tokens=8, flops_per_token=flops, visible_share=1.0),
        mesh=types.SimpleNamespace(size=4),
    )
    return types.SimpleNamespace(
        decode=decode,
        prompts=types.SimpleNamespace(lengths_B=np.zeros(8)),
        reads=types.SimpleNamespace(weights=weights, cache=cache),
    )


@pytest.mark.parametrize(
    ("reads", "computing", "exposed", "bound", "seconds"),
    [
        # 0.82 GB at 820 GB/s are a millisecond, and the compiler's cycles say less.
        ({"weights": 82 * 10**7}, 1e-4, 0.0, "reading the weights", 1e-3),
        ({"weights": 82 * 10**6, "cache": 82 * 10**7}, 1e-4, 2e-4, "reading the caches", 1.1e-3 + 2e-4),
        # Eight rows of four chips.
        ({"flops": 197e12 / 8 * 4 * 1e-3}, 1.5e-3, 0.0, "arithmetic", 1.5e-3),
        ({"weights": 82 * 10**6}, 1e-3, 0.0, "other work by the compiler's cycles", 1e-3),
        ({"weights": 82 * 10**6}, 1e-4, 5e-3, "collectives that nothing hides", 1e-4 + 5e-3),
    ],
)
def test_a_token_takes_what_its_slowest_part_takes(reads, computing, exposed, bound, seconds):
    pricing = types.SimpleNamespace(computing=computing * EVERY, seconds=(computing + exposed) * EVERY)
    times = decode_times(found(**reads), pricing)
    assert times["bound"] == bound
    assert times["seconds_per_token"] == pytest.approx(seconds)
    assert times["tokens_per_second"] == pytest.approx(8 / seconds)
    assert times["tokens_per_second_per_row"] == pytest.approx(1 / seconds)


def test_the_share_of_pairs_that_a_prompt_sees():
    spec = types.SimpleNamespace(shapes={})
    given = laid_out([[0] * 3] * 2, [(spec, None)], max_new_tokens=5, attention="causal", start_id=None)
    assert given.tokens_BT.shape == (2, 4) and given.room == 64
    # One, two and three slots of 68, and all of them for the place of the padding.
    assert visible_share(given, 3, MODEL, prefix=False) == pytest.approx((1 + 2 + 3 + 68) / 4 / 68)
    assert visible_share(given, 3, MODEL, prefix=True) == pytest.approx((3 + 3 + 3 + 68) / 4 / 68)
    windowed = dataclasses.replace(MODEL, windows=(None, 2))
    mixed = ((1 + 2 + 3 + 68) / 4 + (1 + 2 + 2 + 2) / 4) / 2
    assert visible_share(given, 3, windowed, prefix=False) == pytest.approx(mixed / 68)


def test_the_figures_are_printed_and_compared():
    one = {"fits": True, "collectives": [], "host": {"bytes": 0}, "involuntary_rematerialisation": []}
    memory = {
        "arguments": 1,
        "temporaries": 2,
        "other": 3,
        "held": 4,
        "peak": 10,
        "hbm": 16,
        "margin": 6,
        "largest": [],
    }
    one |= {"memory": memory, "flops_per_token": 7, "seconds_per_step": 0.5, "tokens_per_second": 9.0, "mfu": 0.25}
    one |= {"cycles_per_token": 10.0, "cycles_per_token_by_part": {"feed-forward": 10.0}, "dearest": []}
    decode = one | {
        "seconds_per_token": 0.002, "tokens_per_second_per_row": 500.0, "tokens_per_second_per_chip": 1.0,
        "reads": {"weights": 2**20, "cache": 2**21}, "bound": "arithmetic", "computing_seconds_per_token": 0.001,
        "seconds_by_bound": {"reading the weights": 0.001, "arithmetic": 0.002},
    }  # fmt: skip
    figures = {
        "recipe": "r", "topology": "v5e:1x1", "chips": 1, "mesh": {"data": 1}, "batch_size": 4, "prompt_length": 8,
        "max_new_tokens": 5, "cache_length": 72, "parameters": 10, "fits": True, "prefill": one, "decode": decode,
        "assumed": ["nothing"],
    }  # fmt: skip
    lines = [item for item in decoding_tables(figures) if isinstance(item, str)]
    assert "4 prompts of 8 tokens, up to 5 new ones, caches of 72" in lines[0]
    assert any(
        "2 ms a token, 9 tokens a second (500.0 a row, 1 a device), bound by arithmetic" in line for line in lines
    )
    absent = {name: value for name, value in figures.items() if name != "decode"}
    absent |= {"fits": False, "prefill": one | {"refusal": "too much"}}
    absent["prefill"] = {
        name: absent["prefill"][name] for name in ("refusal", "involuntary_rematerialisation", "flops_per_token")
    }
    assert list(decoding_tables(absent))[-1] == "decoding was not compiled, for prefill does not fit"
    table = decoding_comparison([figures, absent], ["a", "b"])
    bound = next(i for i, cell in enumerate(table.columns[0].cells) if cell == "decoding: bound by")
    assert [list(column.cells)[bound] for column in table.columns[1:]] == ["arithmetic", ""]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": MaskedLM()}, "MaskedLM does not train a model that writes one token after the other"),
        ({"objective": MaskedDiffusion()}, "MaskedDiffusion does not train a model that writes one token"),
        ({"objective": PairwiseReward()}, "does not train a model's output layer"),
    ],
)
def test_a_model_that_does_not_write_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        compile_decoding(recipe(**changes), chips(4), Writing())


@pytest.mark.parametrize(
    ("changes", "writing", "message"),
    [
        ({}, {"batch_size": 3}, "--batch-size 3 cannot be split over 2 devices .* multiple of 2, or use mesh.tensor"),
        (
            {"model": dataclasses.replace(MODEL, positions="learned", max_length=40)},
            {"prompt_length": 30, "max_new_tokens": 20},
            "prompt and new tokens make 50 positions and the model has learned 40",
        ),
        ({}, {"prompt_length": 0}, "--prompt-length 0: must be at least 1"),
    ],
)
def test_text_that_the_model_or_the_mesh_cannot_take_is_refused(changes, writing, message):
    with pytest.raises(ValueError, match=message):
        compile_decoding(recipe(**changes), chips(4), Writing(**writing))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "8"], "--batch-size: has a meaning with --decode only"),
        (["--decode", "--evaluation"], "--decode and --evaluation: choose one"),
        (["--decode", "--sweep", "mesh"], "--sweep and --decode: choose one"),
        (["--decode", "--compare", "batch-size=many"], "--compare batch-size=many: write a whole number"),
        (["--decode", "--objective", "MaskedLM"], "MaskedLM does not train a model that writes"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, monkeypatch):
    monkeypatch.setattr("lmjax.cli.compile.prepare_environment", lambda: "")
    with pytest.raises(ValueError, match=message):
        run(["configs/stdlib_demo.py", "--topology", "v5e:2x2", *options])
