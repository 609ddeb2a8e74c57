"""Whatever is changed on a resume, each source of a mixture is read row after row: nothing is repeated or skipped."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmjax.data.config import DataConfig
from lmjax.data.manifest import Manifest, token_dtype
from lmjax.data.mixing import Source, Stage, weights_by_step, weights_until
from lmjax.data.prepare.shard_writer import ShardWriter
from lmjax.data.rows.mixture import Stages
from lmjax.data.rows.opening import open_rows
from lmjax.data.rows.shard_reader import open_shards
from lmjax.objectives import CausalLM, MaskedLM
from lmjax.train.config import TrainConfig
from lmjax.train.curriculum import curriculum

LENGTHS = {"a": [[40, 3, 90, 17], [64, 1, 25]], "b": [[9, 9, 100, 2, 2]], "c": [[33] * 3, [5] * 20]}
FIRST_TOKEN = {"a": 1, "b": 10_001, "c": 20_001}
LEAN = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PACKINGS = ("windows", "segments", "best_fit", "examples")


def write_source(folder, lengths_by_shard, token):
    folder.mkdir()
    shards = []
    for number, lengths in enumerate(lengths_by_shard):
        writer = ShardWriter(folder, f"train-{number:05d}", split="train", vocabulary_size=1 << 20, weighted=False)
        for length in lengths:
            writer.add(np.arange(token, token + length))
            token += length
        shards.append(writer.finish())
    Manifest(
        dtype=token_dtype(1 << 20).name, weighted=False, vocabulary_size=1 << 20, pad_id=0,
        tokenizer_fingerprint="", settings={}, source={}, shards=tuple(shards),
    ).save(folder)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three sources in which every token is different and so says where it comes from."""
    root = tmp_path_factory.mktemp("sources")
    for name, lengths in LENGTHS.items():
        write_source(root / name, lengths, FIRST_TOKEN[name])
    return {name: str(root / name) for name in LENGTHS}


class Host:
    """The sharding of a batch over equal hosts, as one of them sees it."""

    def __init__(self, index, count):
        self.index, self.count = index, count

    def addressable_devices_indices_map(self, shape):
        size = shape[0] // self.count
        return {0: (slice(self.index * size, (self.index + 1) * size),)}


def global_batches(phases, rows, *, start, stop, hosts):
    """The tokens of steps ``start`` to ``stop``, put together from the shares of the hosts."""
    shares = [
        [
            batch.tokens_BT
            for batch in itertools.islice(phases.batches(rows, start_step=start, sharding=host), stop - start)
        ]
        for host in (Host(index, hosts) for index in range(hosts))
    ]
    return [np.concatenate(parts) for parts in zip(*shares, strict=True)]


weights = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.25, 1.0, 2.0, 7.0]), min_size=1)
hosts = st.sampled_from([1, 2, 4, 8])
segment = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 3),
        "batch_size": st.sampled_from([8, 16]),
        "hosts": hosts,
        "later": st.lists(st.tuples(st.integers(0, 3), weights), max_size=2, unique_by=lambda stage: stage[0]),
    }
)


def check_next_rows(rows, tokens_BT, consumed, *, first_row, stride):
    """Each row is the next unread row of its source."""
    rows = rows.cut(tokens_BT.shape[1])
    for index, tokens_T in enumerate(tokens_BT, start=first_row):
        source, number = rows.locate(index)
        assert number * stride == consumed[rows.names[source]]
        np.testing.assert_array_equal(tokens_T, rows.sources[source].row(number).tokens_BT[0])
        consumed[rows.names[source]] += stride


@settings(LEAN, max_examples=12)
@given(
    packing=st.sampled_from(PACKINGS),
    objective=st.sampled_from([MaskedLM(), CausalLM()]),
    first=weights,
    warmup=st.sampled_from([(), ((2, 4),), ((1, 2), (5, 8))]),
    segments=st.lists(segment, min_size=2, max_size=3),
)
def test_resumes_with_other_hosts_batch_sizes_and_later_weights(folders, packing, objective, first, warmup, segments):
    sources = {name: Source(prepared=folder) for name, folder in folders.items()}
    data = DataConfig(sources=sources, weights=first, packing=packing, verify="never")
    train = TrainConfig(batch_size=8, sequence_length=16, sequence_warmup=() if packing == "examples" else warmup)
    step, stages, batch_sizes = 0, (), ()
    consumed = dict.fromkeys(LENGTHS, 0)
    for part in segments:
        # Stages before this step stay; later ones are replaced. A whole batch size keeps shorter rows whole too.
        kept = [stage for stage in stages if stage.first_step < step]
        new = [
            Stage(first_step=max(step, 1) + after, weights=own)
            for after, own in sorted(part["later"], key=lambda s: s[0])
        ]
        stages = (*kept, *new)
        if not batch_sizes or batch_sizes[-1][1] != part["batch_size"]:
            batch_sizes = (*batch_sizes, (step, part["batch_size"]))
        phases = curriculum(objective, train, batch_sizes=batch_sizes)
        rows = open_rows(
            dataclasses.replace(data, stages=stages), "train", row_length=phases.phases[-1].row_length,
            overlap=phases.overlap, seed=5,
        )  # fmt: skip
        stop = step + part["steps"]
        got = global_batches(phases, rows, start=step, stop=stop, hosts=part["hosts"])
        placed = rows.placed(phases.stages)
        for number, tokens_BT in enumerate(got, start=step):
            stride = phases.at(number).stride
            first_row = phases.at(number).consumed(number) // stride
            check_next_rows(placed, tokens_BT, consumed, first_row=first_row, stride=stride)
        for name, times in placed.epochs(phases.first_block(stop)).items():
            block = phases.phases[-1].stride
            source = rows.sources[rows.names.index(name)]
            read = round(times * (len(source) // source.rows_per_block)) * block
            assert 0 <= read - consumed[name] < block
        step = stop


@settings(LEAN, max_examples=15)
@given(
    first=st.fixed_dictionaries({"a": st.sampled_from([1.0, 3.0]), "b": st.just(1.0)}),
    counts=st.lists(hosts, min_size=2, max_size=3),
)
def test_streams_of_a_mixture_go_on_in_their_source(folders, first, counts):
    sources = {name: Source(prepared=folder) for name, folder in folders.items()}
    data = DataConfig(sources=sources, weights=first, packing="streams", verify="never")
    phases = curriculum(CausalLM(), TrainConfig(batch_size=8, sequence_length=8))
    rows = open_rows(data, "train", row_length=9, num_streams=8, seed=0)
    consumed, last_T = dict.fromkeys(LENGTHS, 0), None
    for number, count in enumerate(counts):
        got = global_batches(phases, rows, start=2 * number, stop=2 * number + 2, hosts=count)
        for step, tokens_BT in enumerate(got, start=2 * number):
            check_next_rows(rows, tokens_BT, consumed, first_row=8 * step, stride=1)
            begins_anew = max(consumed[n] / len(s) for n, s in zip(rows.names, rows.sources, strict=True)) > 1
            if last_T is not None and not begins_anew:
                np.testing.assert_array_equal(tokens_BT[:, 0], last_T)
            last_T = tokens_BT[:, -1]
    assert consumed["c"] == 0 and consumed["a"] / first["a"] == consumed["b"]


@settings(LEAN, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=3, max_size=30),
    row_length=st.sampled_from([4, 8, 16]),
    packing=st.sampled_from(PACKINGS),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_each_token_is_read_once_an_epoch(tmp_path_factory, lengths, row_length, packing, seed, epoch):
    folder = tmp_path_factory.mktemp("one") / "source"
    write_source(folder, [lengths[::2], lengths[1::2]], 1)
    shards = open_shards(folder, "train", verify="never")
    if packing in ("windows", "segments") and shards.num_tokens < row_length:
        return
    data = DataConfig(prepared=str(folder), packing=packing, verify="never")
    rows = open_rows(data, "train", row_length=row_length, seed=seed)
    batch = rows.rows(range(epoch * len(rows), (epoch + 1) * len(rows)))
    read = batch.tokens_BT[batch.segments_BT > 0] if rows.has_segments else batch.tokens_BT.ravel()
    assert len(np.unique(read)) == len(read)
    total = sum(lengths)
    if packing == "best_fit":
        assert len(read) == total
    elif packing == "examples":
        assert len(read) == sum(min(length, row_length) for length in lengths)
    else:
        assert total - row_length < len(read) <= total


@settings(LEAN, max_examples=50)
@given(
    stages=st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(0, 5), min_size=3, max_size=3)), min_size=1, max_size=4
    ),
    change_at=st.integers(0, 60),
)
def test_stages_count_on_from_each_other_and_do_not_depend_on_later_ones(stages, change_at):
    firsts = [0, *itertools.accumulate(gap for gap, _ in stages[1:])]
    pairs = [(first, [*own[:2], own[2] + 1]) for first, (_, own) in zip(firsts, stages, strict=True)]
    divide = Stages([(first, [*map(Fraction, own)]) for first, own in pairs])
    counts = [0, 0, 0]
    for index in range(100):
        assert divide.counts(index) == tuple(counts)
        source, own = divide(index)
        assert own == counts[source]
        counts[source] += 1
    earlier = [pair for pair in pairs if pair[0] < change_at] or pairs[:1]
    shorter = Stages([(first, [*map(Fraction, own)]) for first, own in earlier])
    assert [shorter(i) for i in range(max(change_at, 1))] == [divide(i) for i in range(max(change_at, 1))]


def test_weights_by_temperature_and_stages():
    sources = {name: Source(path=name) for name in ("web", "code")}
    tokens = {"web": 1600, "code": 100}
    by_size = weights_by_step(DataConfig(sources=sources), tokens)
    assert [float(share) for share in by_size[0][1].values()] == [100 / 1700, 1600 / 1700]
    mixed = DataConfig(sources=sources, temperature=2.0, stages=(Stage(first_step=10, weights={"web": 4, "code": 4}),))
    (_, first), (step, last) = weights_by_step(mixed, tokens)
    assert float(first["web"]) == pytest.approx(0.8) and step == 10 and last["web"] == last["code"]
    assert weights_until(((0, last), (10, last)), 50) == [(0, dict(sorted(last.items())))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"wb": 1.0}}, "data.weights names 'wb', which is no source: there are code, web"),
        ({"weights": {"web": 0.0}}, "at least one must be above 0"),
        ({"weights": {"web": -1.0}}, "data.weights: web=-1.0: must not be negative"),
        ({"weights": {"web": 1.0}, "temperature": 2.0}, "data.weights and data.temperature are both given"),
        ({"temperature": 0.0}, "data.temperature=0.0: must be above 0"),
        ({"stages": (Stage(first_step=0, weights={"web": 1.0}),)}, r"first steps \[0\] must be above 0 and rise"),
        ({"stages": (Stage(first_step=3),)}, "the stage from step 3: give weights, or a temperature"),
        ({"max_epochs": {"web": 0.0}}, "data.max_epochs: web=0.0: must be above 0"),
        ({"packing": "streams", "stages": (Stage(first_step=3, temperature=2.0),)}, "leave data.stages empty"),
        ({"mixture": ("a",), "mixture_weights": (1.0,)}, "data.sources and data.mixture are both given"),
        ({"sources": {"a/b": Source(path="x")}}, "'a/b' is no name of a source"),
        ({"sources": {"a": Source(path="x", valid_fraction=2.0)}}, "data.sources: a: data.valid_fraction=2.0"),
        ({"sources": {}, "temperature": 2.0}, "there is one source only: set data.sources"),
    ],
)  # fmt: skip
def test_mixtures_that_do_not_go_together_are_refused(options, message):
    sources = {"web": Source(path="w"), "code": Source(path="c")}
    with pytest.raises(ValueError, match=message):
        DataConfig(**{"sources": sources, **options})
