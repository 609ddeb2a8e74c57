"""Prices worked out by hand of a small program that libtpu made, and of kernels and checks."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.compile import prediction
from lmjax.compile.collectives import find_collectives, links_by_axis, seconds
from lmjax.compile.hlo import parse
from lmjax.compile.kernels import attention_rounds, kernel_cost
from lmjax.compile.pricing import price
from lmjax.compile.report import tables
from lmjax.compile.sweep import layouts, parse_sweep
from lmjax.compile.topology import CHIPS, Topology, open_topology
from lmjax.compile.uses import trip_count
from lmjax.kernels.attention.dispatch import attend
from lmjax.kernels.attention.tpu_blocks import kernel_name
from lmjax.masks import causal
from lmjax.models.execution import ExecutionConfig
from lmjax.train.config import RunConfig, TrainConfig

LINK = 0.9 * 50e9


@pytest.fixture(scope="module")
def pricing(golden):
    devices = [types.SimpleNamespace(coords=[i % 2, i // 2, 0], slice_index=None) for i in range(8)]
    topology = Topology(name="v5e:2x4", chip=CHIPS["v5e"], extents=(2, 4), devices=devices)
    program = parse((golden / "hlo" / "scan_v5e_2x4.txt").read_text())
    array = np.empty(8, object)
    array[:] = devices
    return price(program, topology=topology, mesh={"x": 4, "y": 2}, devices=array, visible_share=0.5)


def test_collectives_have_bytes_axes_and_times(pricing):
    rows = prediction.collective_rows(pricing)
    found = {(row["kind"], *row["axes"], row["bytes"], row["times"], row["blocks"]) for row in rows}
    a_layer, a_part = 2 * 1024 * 1024, 2 * 512 * 1024
    assert found == {
        ("all-gather", "x", a_part, 6, True),
        ("all-reduce", "y", a_layer, 6, True),
        ("all-gather", "x", a_part, 6, False),
        ("all-gather", "y", a_layer, 6, True),
        ("all-reduce", "x", a_part, 6, True),
    }


def test_a_collective_takes_its_bytes_over_its_links(pricing):
    # No axis of 2 x 4 is closed to a ring, so one link carries a group.
    gather = next(one for one in pricing.collectives if not one.collective.blocks)
    once = 3 / 4 * 2 * 512 * 1024 / LINK
    assert gather.seconds == pytest.approx(6 * once)
    # Between its start and its end run a product of 12,636 cycles and an update of 8,596.
    assert gather.exposed == pytest.approx(6 * (once - (12636 + 8596) / 1.5e9), rel=1e-3)
    reduce = next(
        one for one in pricing.collectives if one.collective.axes == ("y",) and one.collective.kind == "all-reduce"
    )
    assert reduce.exposed == reduce.seconds == pytest.approx(6 * 2 * 1 / 2 * 2**21 / LINK)


def test_between_slices_a_chip_exchanges_its_own_part():
    devices = np.empty(8, object)
    devices[:] = [types.SimpleNamespace(coords=[i % 4, 0, 0], slice_index=i // 4) for i in range(8)]
    topology = Topology(name="v5e:4x1 x 2 slices", chip=CHIPS["v5e"], extents=(4, 1), devices=devices)
    text = "ENTRY %main (p: f32[1024]) -> f32[1024] {\n  %p = f32[1024] parameter(0)\n"
    text += "  ROOT %r = f32[1024] all-reduce(%p), replica_groups={}, to_apply=%add\n}\n"
    (one,) = find_collectives(parse(text), {"data": 8})
    within = 2 * 3 / 4 * 4096 / LINK
    assert seconds(one, topology, devices) == pytest.approx(within + 2 * 1 / 2 * 4096 / 4 / 6.25e9)


def test_an_all_to_all_over_a_whole_torus_takes_as_long_as_its_longest_ring():
    devices = np.empty(256, object)
    devices[:] = [types.SimpleNamespace(coords=[i % 16, i // 16, 0], slice_index=None) for i in range(256)]
    topology = Topology(name="v5e:16x16", chip=CHIPS["v5e"], extents=(16, 16), devices=devices)
    text = "ENTRY %main (p: f32[1024]) -> f32[1024] {\n  %p = f32[1024] parameter(0)\n"
    text += "  ROOT %r = f32[1024] all-to-all(%p), replica_groups={}, dimensions={0}\n}\n"
    (one,) = find_collectives(parse(text), {"fsdp": 256})
    # Four hops on average along each axis, over its two links.
    assert seconds(one, topology, devices) == pytest.approx(255 / 256 * 4096 * 4 / 2 / LINK)


def permutation(pairs, operand="%p"):
    listed = ",".join(f"{{{source},{target}}}" for source, target in pairs)
    return f"f32[1024] collective-permute({operand}), source_target_pairs={{{listed}}}"


@pytest.mark.parametrize(
    ("name", "pairs", "messages"),
    [
        ("v5e:4x1", [(i, (i + 1) % 4) for i in range(4)], 1),  # the last message goes back over other links
        ("v5e:16x1", [(i, (i + 1) % 16) for i in range(16)], 1),
        ("v5e:16x1", [(i, (i + 3) % 16) for i in range(16)], 3),
        # 0 stays, 1 to 2, 2 to 3, 3 to 1: the first half of each part, in zig-zag order.
        ("v5e:4x1", [(0, 0), (1, 2), (2, 3), (3, 1)], 1),
        ("v5e:4x1", [(0, 3), (1, 3), (2, 3)], 3),
    ],
)
def test_of_a_permutation_the_link_with_the_most_messages_decides(name, pairs, messages):
    extents = (int(name[4:].partition("x")[0]), 1)
    devices = np.empty(extents[0], object)
    devices[:] = [types.SimpleNamespace(coords=[i, 0, 0], slice_index=None) for i in range(extents[0])]
    topology = Topology(name=name, chip=CHIPS["v5e"], extents=extents, devices=devices)
    text = "ENTRY %main (p: f32[1024]) -> f32[1024] {\n  %p = f32[1024] parameter(0)\n"
    (one,) = find_collectives(parse(f"{text}  ROOT %r = {permutation(pairs)}\n}}\n"), {"context": extents[0]})
    assert (one.axes, one.num_bytes) == (("context",), 4096)
    assert seconds(one, topology, devices) == pytest.approx(messages * 4096 / LINK)


def test_collectives_of_one_channel_are_not_one():
    """All that a shard_map makes have channel 1."""
    text = "ENTRY %main (p: f32[1024]) -> f32[1024] {\n  %p = f32[1024] parameter(0)\n"
    text += f"  %q = {permutation([(0, 1), (1, 0)])}, channel_id=1\n"
    text += f"  ROOT %r = {permutation([(0, 1), (1, 0)], '%q')}, channel_id=1\n}}\n"
    assert len(find_collectives(parse(text), {"context": 2})) == 2


def test_a_permutation_in_a_loop_is_hidden_by_the_dearest_branch_beside_it():
    start = permutation([(0, 1), (1, 0)], "%g").replace("permute(", "permute-start(")
    text = f"""
%work (a: f32[1024]) -> f32[1024] {{
  %a = f32[1024] parameter(0)
  ROOT %w = f32[1024] fusion(%a), kind=kLoop, calls=%f, backend_config={{"estimated_cycles":"100"}}
}}
%rest (b: f32[1024]) -> f32[1024] {{
  ROOT %b = f32[1024] parameter(0)
}}
%body (t: (s32[], f32[1024])) -> (s32[], f32[1024]) {{
  %t = (s32[], f32[1024]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %g = f32[1024] get-tuple-element(%t), index=1
  %s = {start}
  %c = f32[1024] conditional(%i, %g, %g), branch_computations={{%rest, %work}}
  %d = f32[1024] collective-permute-done(%s)
  ROOT %r = (s32[], f32[1024]) tuple(%i, %d)
}}
ENTRY %main (p: (s32[], f32[1024])) -> (s32[], f32[1024]) {{
  %p = (s32[], f32[1024]) parameter(0)
  ROOT %l = (s32[], f32[1024]) while(%p), condition=%k, body=%body, backend_config={{"known_trip_count":{{"n":"3"}}}}
}}
"""
    devices = np.empty(2, object)
    devices[:] = [types.SimpleNamespace(coords=[i, 0, 0], slice_index=None) for i in range(2)]
    topology = Topology(name="v5e:2x1", chip=CHIPS["v5e"], extents=(2, 1), devices=devices)
    found = price(parse(text), topology=topology, mesh={"context": 2}, devices=devices, visible_share=0.5)
    (one,) = found.collectives
    once = 4096 / LINK
    assert one.seconds == pytest.approx(3 * once)
    assert one.exposed == pytest.approx(3 * (once - 100 / 1.5e9))


def test_an_axis_that_is_closed_to_a_ring_has_two_links():
    chips = {"v5e:16x16": (16, 2), "v5e:16x8": (8, 1), "v5p:4x4x4": (4, 2), "v5p:2x2x1": (2, 1)}
    for name, (along, links) in chips.items():
        kind, extents = name.split(":")[0], tuple(int(size) for size in name.split(":")[1].split("x"))
        axis = extents.index(along)
        places = [[i if axis == k else 0 for k in range(3)] for i in range(along)]
        members = [types.SimpleNamespace(coords=place) for place in places]
        topology = Topology(name=name, chip=CHIPS[kind], extents=extents, devices=[])
        assert links_by_axis(members, topology) == [(along, links)]


def test_the_step_is_computation_and_what_no_computation_hides(pricing):
    assert pricing.computing == pytest.approx(741268 / 1.5e9, rel=1e-4)
    assert pricing.seconds == pytest.approx(pricing.computing + sum(one.exposed for one in pricing.collectives))
    assert sum(pricing.cycles_by_part.values()) == pytest.approx(pricing.seconds * pricing.clock)
    # Two products and a tanh with their lines, a slice that is of the line whose result it reads, two more products.
    layers = 6 * (16480 + 15377 + 8596 + 12636 + 12636)
    assert pricing.cycles_by_part["feed-forward"] == layers


KERNEL = """HloModule m

ENTRY %main (q: bf16[2,8,4,64,1024], k: bf16[2,8,64,1024], v: bf16[2,8,64,1024]) -> bf16[2,8,4,64,1024] {
  %q = bf16[2,8,4,64,1024] parameter(0)
  %k = bf16[2,8,64,1024] parameter(1)
  %v = bf16[2,8,64,1024] parameter(2)
  ROOT %o = bf16[2,8,4,64,1024] custom-call(%q, %k, %v), custom_call_target="tpu_custom_call", metadata={op_name="NAME"}
}
"""


@pytest.mark.parametrize(
    ("name", "products", "share"),
    [
        ("interval_attention_forward", 2, 0.37),
        ("interval_attention_backward", 5, 0.66),
        (kernel_name("forward", has_bias=True, has_dropout=False), 2, 0.35),
        (kernel_name("backward", has_bias=True, has_dropout=True), 5, 0.46),
    ],
)
def test_a_kernel_takes_its_flops_over_a_share_of_the_peak(name, products, share):
    program = parse(KERNEL.replace("NAME", name))
    call = program.computations["main"][-1]
    cost = kernel_cost(program, "main", call, peak_flops=197e12, visible_share=0.5, filled_share=1.0, kind="v5e")
    # Half the pairs, and half a block of 512 keys of the 1,024 more.
    pairs = 2 * 8 * 4 * 1024 * 1024 * 0.75
    assert cost.flops == 2 * products * pairs * 64
    assert cost.seconds == pytest.approx(cost.flops / (share * 197e12))
    assert cost.assumed == f"{name}: {share:.0%} of the peak, as counted on v5e at head width 64"
    elsewhere = kernel_cost(program, "main", call, peak_flops=275e12, visible_share=0.5, filled_share=1.0, kind="v4")
    assert elsewhere.assumed.endswith("as counted on v5p at head width 64, not on v4 at 64")


EXPERTS = """ENTRY %main (i: s32[1], x: bf16[1024,256], w: bf16[4,256,512], g: bf16[1024,512]) -> bf16[4,256,512] {
  %i = s32[1] parameter(0)
  %x = bf16[1024,256] parameter(1)
  %w = bf16[4,256,512] parameter(2)
  %g = bf16[1024,512] parameter(3)
  %y = bf16[1024,512] custom-call(%i, %x, %w), CALL, metadata={op_name="jvp(jit(gmm))/a"}
  %d = bf16[1024,256] custom-call(%i, %g, %w), CALL, metadata={op_name="jit(gmm)/b"}
  ROOT %o = bf16[4,256,512] custom-call(%i, %x, %g), CALL, metadata={op_name="jit(tgmm)/c"}
}
""".replace("CALL", 'custom_call_target="tpu_custom_call"')


def test_products_of_experts_count_the_slots_that_are_filled():
    program = parse(EXPERTS)
    for call, share in zip(program.computations["main"][-3:], (0.87, 0.87, 0.81), strict=True):
        assumed = {"visible_share": 1.0, "filled_share": 0.25, "kind": "v5e"}
        cost = kernel_cost(program, "main", call, peak_flops=197e12, **assumed)
        assert cost.flops == 2 * 256 * 256 * 512
        assert cost.seconds == pytest.approx(cost.flops / (share * 197e12))


HOSTED = """ENTRY %main (x: bf16[1,512,1024], host: bf16[8,512,1024], at: s32[]) -> bf16[8,512,1024] {
  %x = bf16[1,512,1024]{2,1,0:T(8,128)} parameter(0)
  %host = bf16[8,512,1024]{2,1,0:T(8,128)S(5)} parameter(1)
  %at = s32[] parameter(2)
  %start = (bf16[8,512,1024]{2,1,0:T(8,128)S(5)}, u32[]) dynamic-update-slice-start(%host, %x, %at, %at, %at)
  %y = bf16[1,512,1024]{2,1,0:T(8,128)} fusion(%x), backend_config={"estimated_cycles":"CYCLES"}
  ROOT %done = bf16[8,512,1024]{2,1,0:T(8,128)S(5)} dynamic-update-slice-done(%start)
}
"""


@pytest.mark.parametrize(("cycles", "exposed"), [(1, 2**20 / 15e9 - 1 / 1.5e9), (10**6, 0.0)])
def test_a_slice_that_is_copied_to_the_host_takes_its_bytes_beside_computation(cycles, exposed):
    topology = Topology(name="v5e:2x2", chip=CHIPS["v5e"], extents=(2, 2), devices=[])
    program = parse(HOSTED.replace("CYCLES", str(cycles)))
    found = price(program, topology=topology, mesh={"x": 1}, devices=np.empty(1, object), visible_share=1.0)
    (one,) = found.host
    assert one.num_bytes == 2**20
    assert one.exposed == pytest.approx(exposed, abs=1e-12)
    assert found.seconds == pytest.approx(cycles / 1.5e9 + exposed)
    assert sum(found.cycles_by_part.values()) == pytest.approx(found.seconds * 1.5e9)


def test_a_loop_over_blocks_of_keys_runs_as_often_as_a_block_of_queries_sees_one():
    """Of four blocks of a causal row: one, two, three and four, on average two and a half."""
    query = jnp.zeros((1, 512, 1, 8))
    run = jax.jit(functools.partial(attend, mask=causal(512), backend="chunked"))
    program = parse(run.lower(query, query, query).compile().as_text())
    rounds = attention_rounds(program, 0.5)
    assert list(rounds.values()) == [3]
    (loop,) = [
        one for lines in program.computations.values() for one in lines if one.opcode == "while" and one.name in rounds
    ]
    assert trip_count(program, loop) is None
    assert trip_count(dataclasses.replace(program, rounds=rounds), loop) == 3


def test_wide_heads_take_the_share_of_the_width_that_is_nearest():
    program = parse(KERNEL.replace("NAME", "interval_attention_forward").replace(",64,1024]", ",96,1024]"))
    call = program.computations["main"][-1]
    cost = kernel_cost(program, "main", call, peak_flops=459e12, visible_share=1.0, filled_share=1.0, kind="v5p")
    assert cost.assumed.endswith("as counted on v5p at head width 64, not on v5p at 96")
    assert cost.seconds == pytest.approx(cost.flops / (0.37 * 459e12))


def test_a_kernel_that_is_not_known_is_said_to_count_nothing():
    program = parse(KERNEL.replace("NAME", "another"))
    cost = kernel_cost(
        program,
        "main",
        program.computations["main"][-1],
        peak_flops=1.0,
        visible_share=1.0,
        filled_share=1.0,
        kind="v5e",
    )
    assert (cost.name, cost.flops, cost.seconds) == ("another", None, 0.0)
    assert "counts nothing" in cost.assumed


def test_a_step_that_does_not_fit_is_reported_without_figures():
    figures = {
        "recipe": "r", "objective": "CausalLM", "topology": "v5e:2x2", "chips": 4, "mesh": {"data": 4, "fsdp": 1},
        "batch_size": 4, "sequence_length": 8, "microbatches": 1, "remat": "none", "parameters": 10,
        "flops_per_token": 60, "fits": False, "refusal": "Ran out of memory: 20G of 15.75G",
        "involuntary_rematerialisation": [],
    }  # fmt: skip
    head, reason = tables(figures)
    assert "data=4, 4 rows of 8" in head
    assert reason == "does not fit: Ran out of memory: 20G of 15.75G"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100:8", "unknown kind 'h100'; known, with examples of their sizes: v4:4x4x4, v5e:8x8"),
        ("v5e", "write the chips along each axis"),
        ("v5e:8", "write the chips along each axis"),
        ("v5e:8x0", "write the chips along each axis"),
        ("v5e:8x8x8x8", "write the chips along each axis"),
    ],
)
def test_unknown_chips_are_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message):
        open_topology(name)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'lmjax\[tpu\]'"):
        open_topology("v5e:2x2")


def test_a_sweep_names_every_layout_and_keeps_what_is_refused():
    config = RunConfig(name="r", train=TrainConfig(batch_size=16, microbatches=2))
    assert parse_sweep("mesh", config, 8) == {"mesh": [1, 2, 4, 8]}
    assert parse_sweep("microbatches", config, 8) == {"microbatches": [1, 2, 4]}
    values = parse_sweep("microbatches=2/3,remat=full/none", config, 8)
    found = dict(layouts(config, values))
    assert list(found) == [
        "microbatches=2 remat=full", "microbatches=2 remat=none", "microbatches=3 remat=full",
        "microbatches=3 remat=none",
    ]  # fmt: skip
    assert isinstance(found["microbatches=3 remat=full"], ValueError)
    good = found["microbatches=2 remat=none"]
    assert good == dataclasses.replace(
        config, model=dataclasses.replace(config.model, execution=ExecutionConfig(remat="none"))
    )
    for text, message in (("tensor", "can try mesh"), ("remat=most", "no policy 'most'"), ("mesh=a", "whole numbers")):
        with pytest.raises(ValueError, match=message):
            parse_sweep(text, config, 8)
