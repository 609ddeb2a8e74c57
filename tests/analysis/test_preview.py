import dataclasses
import io
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from rich.console import Console

from lmjax import masks
from lmjax.analysis.preview import preview_batch
from lmjax.analysis.preview_batch import recipe_tokenizer, step_batch, step_rows, text_documents, text_rows
from lmjax.analysis.preview_labels import objective_title, token_label
from lmjax.analysis.preview_png import draw_preview
from lmjax.analysis.preview_structure import choose_shown, find_directions, find_documents
from lmjax.analysis.preview_text import mask_blocks, preview_lines, print_preview
from lmjax.cli.preview import run
from lmjax.corruption import Denoiser
from lmjax.data.config import DataConfig
from lmjax.objectives import UL2, CausalLM, MaskedLM, PairwiseReward, PrefixLM, SpanCorruption
from lmjax.objectives.parts.objective import Terms
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.open_corpus import open_corpus
from lmjax.types import Batch, Rows, make_stream

PAD, EOS, MASK, SENTINEL = 256, 257, 258, 259
TOKENIZER = ByteTokenizer({"<pad>": PAD, "<eos>": EOS, "<mask>": MASK, "<extra_id_0>": SENTINEL})
TEXT = "the quick brown fox"


def config(objective=None, **data) -> RunConfig:
    return RunConfig(
        name="preview",
        objective=objective or CausalLM(),
        tokenizer=TokenizerConfig(kind="bytes", special_tokens=("<pad>", "<eos>", "<mask>"), num_sentinels=1),
        data=DataConfig(**data),
        train=TrainConfig(batch_size=4, sequence_length=32, seed=7),
    )


def preview_text(objective, *documents: str, packing="best_fit", num_rows=2, width=48, length=32):
    recipe = config(objective, packing=packing)
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, sequence_length=length))
    rows = text_rows(recipe, TOKENIZER, documents, num_rows=num_rows)
    batch = step_batch(recipe, TOKENIZER.vocabulary, rows, 0)
    view = preview_batch(batch, rows, TOKENIZER, title="title", num_rows=num_rows, width=width)
    return view, batch, rows


def encoder_decoder():
    """Two packed pairs in 12 encoder and 9 decoder positions, with three terms and extras."""
    encoder_segments = tiny.segments([[5, 4], [7, 5]], 12)
    decoder_segments = tiny.segments([[3, 4], [4, 5]], 9)
    start, end = np.zeros_like(decoder_segments), np.zeros_like(decoder_segments)
    for b, t in np.ndindex(decoder_segments.shape):
        (keys,) = np.nonzero(encoder_segments[b] == decoder_segments[b, t])
        start[b, t], end[b, t] = (keys[0], keys[-1] + 1) if len(keys) else (0, 1)
    encoder_tokens = np.where(encoder_segments > 0, ord("a") + encoder_segments, PAD)
    encoder_tokens[:, 1] = SENTINEL
    decoder_tokens = np.where(decoder_segments > 0, ord("p") + decoder_segments, PAD)
    loss = (decoder_segments > 0).astype(np.float32)
    batch = Batch(
        inputs=make_stream(jnp.asarray(decoder_tokens), jnp.asarray(decoder_segments), "causal"),
        targets_BP=jnp.asarray(np.where(decoder_segments > 0, ord("A") + decoder_segments, PAD)),
        weights={
            "loss": jnp.asarray(loss),
            "auxiliary": jnp.asarray(loss * np.arange(9) / 4),
            "reading": jnp.full((2, 12), 0.5),
            "pair": jnp.asarray([[1.0], [0.25]]),
        },
        encoder=make_stream(jnp.asarray(encoder_tokens), jnp.asarray(encoder_segments), "bidirectional"),
        cross_mask=masks.IntervalMask(start_BT=jnp.asarray(start), end_BT=jnp.asarray(end)),
        extras={
            "time": jnp.asarray([0.125, 0.75]),
            "level": jnp.asarray(decoder_segments) * 3,
            "negatives": jnp.zeros((2, 5, 7)),
            "key": jax.random.split(jax.random.key(0), 2),
        },
    )
    rows = Rows(tokens_BT=jnp.asarray(encoder_tokens), segments_BT=jnp.asarray(encoder_segments))
    return batch, rows


def lines_of(view, width=200) -> list[str]:
    return [line.plain for line in preview_lines(view, width=width)]


def test_masked_rows_differ_from_the_data_only_where_they_are_scored_and_show_its_tokens_as_targets():
    view, batch, _ = preview_text(MaskedLM(rate=0.4, mask_fraction=0.5, random_fraction=0.3), TEXT)
    for b, row in enumerate(view.rows):
        (stream,) = row.streams
        scored = set(np.asarray(batch.scored_BP[b])[np.asarray(batch.weights["loss"][b]) > 0].tolist())
        assert scored and {t for t, target in enumerate(stream.targets) if target} == scored
        assert set(np.flatnonzero(stream.scored_W)) == scored
        for t, data in enumerate(row.data[: len(stream.tokens)]):
            assert stream.targets[t] in ("", data)
            assert stream.changed_W[t] == (stream.tokens[t] != data)
            assert t in scored or stream.tokens[t] == data
            assert np.isnan(stream.weights["loss"][t]) == (t not in scored)
    streams = [row.streams[0] for row in view.rows]
    assert any(stream.changed_W.sum() > stream.tokens.count("<mask>") > 0 for stream in streams)
    assert view.rows[0].streams[0].targets != view.rows[1].streams[0].targets


@pytest.mark.parametrize("objective", [CausalLM(), MaskedLM(), PrefixLM()])
@pytest.mark.parametrize("packing", ["windows", "best_fit"])
def test_attention_is_the_mask(objective, packing):
    view, batch, _ = preview_text(objective, TEXT, "second", packing=packing, width=20)
    dense = np.asarray(batch.inputs.mask.dense(batch.inputs.tokens_BT.shape[1]))
    for b, row in enumerate(view.rows):
        shown = row.streams[0].index_W
        np.testing.assert_array_equal(row.streams[0].attention["self"], dense[b % len(dense)][shown][:, shown])


def test_a_long_row_shows_all_that_is_scored_and_says_what_it_leaves_out():
    view, batch, _ = preview_text(SpanCorruption(mean_span=16.0), TEXT * 4, packing="windows", length=96, width=24)
    text = lines_of(view)
    for row, scored_P, weights_P in zip(view.rows, np.asarray(batch.scored_BP), batch.weights["loss"], strict=False):
        (stream,) = row.streams
        scored = np.sort(scored_P[np.asarray(weights_P) > 0])
        assert 0 < len(scored) < 80
        assert set(scored) <= set(stream.index_W.tolist())
        assert stream.index_W[0] == scored[0] - 3 and stream.scored_left_out == 0
        left_out = f"left out, none of them scored: 0-{scored[0] - 4}"
        assert any(f"{len(stream.tokens)} of {stream.length} positions; {left_out}" in line for line in text)


def test_what_is_shown_of_a_row():
    one, none = np.ones(100, int), np.zeros(100, bool)
    wanted = none.copy()
    wanted[[50, 52, 90]] = True
    assert choose_shown(one, wanted, width=10).tolist() == [*range(47, 56), *range(87, 94)]
    assert choose_shown(one, wanted, width=100).tolist() == [*range(100)]
    # Where everything counts, or nothing, the beginning says what the rest is like.
    assert choose_shown(one, none, width=10).tolist() == choose_shown(one, ~none, width=10).tolist() == [*range(10)]
    wanted[:80] = True
    assert len(choose_shown(one, wanted, width=3)) == 30
    padded = np.repeat([1, 0], [20, 80])
    assert choose_shown(padded, none, width=48).tolist() == [*range(24)]


def test_blocks_draw_two_queries_a_line():
    visible = np.random.default_rng(0).random((7, 5)) < 0.5
    upper = {"█": 1, "▀": 1, "▄": 0, " ": 0}
    lower = {"█": 1, "▀": 0, "▄": 1, " ": 0}
    read = np.array([[table[c] for c in line] for line in mask_blocks(visible) for table in (upper, lower)])
    np.testing.assert_array_equal(read[:7], visible)
    assert not read[7].any()


def test_prefix_is_told_from_suffix_in_every_document():
    view, batch, _ = preview_text(PrefixLM(), TEXT, "second one", length=40, num_rows=3)
    for end, row in zip(np.asarray(batch.inputs.mask.end_BT), view.rows, strict=True):
        check_prefixes(row.streams[0], end)
    assert len({tuple(row.streams[0].prefix_W.tolist()) for row in view.rows}) == 3


def check_prefixes(stream, end):
    assert stream.documents_W.tolist() == [1] * 20 + [2] * (len(stream.tokens) - 20)
    for document in (1, 2):
        here = np.flatnonzero(stream.documents_W == document)
        prefix_end = end[here[0]]
        assert here[0] < prefix_end
        if prefix_end - here[0] > 1:
            np.testing.assert_array_equal(here[stream.prefix_W[here]], np.arange(here[0], prefix_end))
        # The target of position t is the token at t + 1: scored from the last prefix position on.
        np.testing.assert_array_equal(stream.scored_W[here[:-1]], here[:-1] + 1 >= prefix_end)
    assert stream.targets[:19] == stream.tokens[1:20]
    assert stream.positions_W[20] == 0 and stream.weights["loss"][19] == 0


def test_what_reads_everything_has_no_prefix():
    documents = np.array([1, 1, 1, 2, 3, 3, 0])
    _, prefix = find_directions(np.array([3, 3, 3, 4, 6, 6, 7]), documents)
    assert not prefix.any()
    ahead, prefix = find_directions(np.array([3, 3, 3, 4, 5, 6, 7]), documents)
    assert prefix.tolist() == [True] * 3 + [False] * 4
    assert ahead.tolist() == [True] * 2 + [False] * 5


def test_documents_follow_positions_and_padding_is_not_one():
    tokens = np.array([5, 6, PAD, 7, PAD, PAD])
    assert find_documents(tokens, np.array([0, 1, 0, 1, 0, 1]), PAD).tolist() == [1, 1, 2, 2, 0, 0]
    assert find_documents(tokens, np.arange(6), PAD).tolist() == [1, 1, 1, 1, 0, 0]
    assert find_documents(np.array([5, 0, 0, 0]), np.array([0, 1, 0, 1]), None).tolist() == [1, 1, 0, 0]


def test_an_encoder_decoder_batch_shows_both_streams_all_masks_and_every_term():
    batch, rows = encoder_decoder()
    view = preview_batch(batch, rows, TOKENIZER, title="pairs", num_rows=2, width=10)
    for b, row in enumerate(view.rows):
        encoder, decoder = row.streams
        assert (encoder.name, decoder.name) == ("encoder input", "decoder input")
        assert encoder.tokens[1] == "<extra_id_0>" and encoder.special_W[1] and not any(encoder.targets)
        assert decoder.targets[0] == "B" and decoder.tokens[0] == "q"
        queries, keys = len(decoder.tokens), len(encoder.tokens)
        cross = np.asarray(batch.cross_mask.dense(12))[b, :queries, :keys]
        np.testing.assert_array_equal(decoder.attention["cross"], cross)
        bidirectional = np.asarray(batch.encoder.mask.dense(12))[b, :keys, :keys]
        np.testing.assert_array_equal(encoder.attention["self"], bidirectional)
        for term in ("loss", "auxiliary"):
            np.testing.assert_array_equal(decoder.weights[term], np.asarray(batch.weights[term])[b, :queries])
        assert encoder.weights.keys() == {"reading"} and decoder.weights.keys() == {"loss", "auxiliary"}
        np.testing.assert_array_equal(decoder.numbers["level"], np.asarray(batch.extras["level"])[b, :queries])
        assert not decoder.changed_W.any()
    assert "weight pair: 0.25" in view.rows[1].details and "time: 0.75" in view.rows[1].details
    assert "negatives: float32 [2, 5, 7]" in view.rows[0].details
    assert any(detail.startswith("key: ") for detail in view.rows[0].details)
    text = "\n".join(lines_of(view))
    for expected in ("of 12 positions; left out: ", "cross attention", "weight auxiliary", "level", "time: 0.125"):
        assert expected in text


def test_both_stacks_of_packed_denoising_are_shown():
    """Documents side by side, the start token as part of its document, and the mode each was given."""
    special = {"<pad>": PAD, "<eos>": EOS, "[R]": 258, "[S]": 259, "<extra_id_0>": 260}
    tokenizer = ByteTokenizer(special)
    denoisers = (Denoiser(mode="R", density=0.2, mean_span=3.0), Denoiser(mode="S", density=0.5))
    objective = UL2(form="encoder_decoder", denoisers=denoisers, documents_per_row=2)
    rows = text_rows(config(objective, packing="best_fit"), tokenizer, ["abcdefgh", "ijklmnop"], num_rows=8)
    batch = jax.jit(lambda key: objective.corrupt(key, rows, tokenizer.vocabulary))(jax.random.key(0))
    modes = set()
    for row in preview_batch(batch, rows, tokenizer, title="", num_rows=8, width=64).rows:
        encoder, decoder = row.streams
        for number in (1, 2):
            read, written = encoder.documents_W == number, decoder.documents_W == number
            begin, start = np.flatnonzero(read)[0], np.flatnonzero(written)[0]
            assert encoder.tokens[begin] in ("[R]", "[S]") and decoder.tokens[start] == "<pad>"
            modes.add(encoder.tokens[begin])
            np.testing.assert_array_equal(
                decoder.attention["cross"], np.equal.outer(decoder.documents_W, encoder.documents_W)
            )
            assert [decoder.targets[t] for t in np.flatnonzero(written)][-1] == "<eos>"
        assert decoder.scored_W.sum() == (decoder.documents_W > 0).sum()
    assert modes == {"[R]", "[S]"}


def test_weights_over_all_positions_stand_beside_targets_at_some():
    tokens = jnp.asarray([[ord("a"), MASK, ord("c"), ord("d")]])
    batch = Batch(
        inputs=make_stream(tokens, None, "bidirectional"),
        targets_BP=jnp.asarray([[ord("b"), 0]]),
        scored_BP=jnp.asarray([[1, 3]]),
        weights={"loss": jnp.asarray([[1.0, 0.0]]), "discriminator": jnp.asarray([[0.5, 1.0, 0.5, 2.0]])},
    )
    rows = Rows(tokens_BT=jnp.asarray([[ord(c) for c in "abcd"]]))
    (stream,) = preview_batch(batch, rows, TOKENIZER, title="").rows[0].streams
    assert stream.targets == ["", "b", "", ""]
    np.testing.assert_array_equal(stream.weights["loss"], [np.nan, 1, np.nan, np.nan])
    np.testing.assert_array_equal(stream.weights["discriminator"], [0.5, 1, 0.5, 2])


def test_rearranged_documents_are_not_compared_with_the_data():
    data = [ord(c) for c in "abcdefgh"]
    tokens = [*data[:3], MASK, *data[4:], *data[4:], *data[:4]]
    segments = jnp.asarray([[1] * 8 + [2] * 8])
    batch = Batch(
        inputs=make_stream(jnp.asarray([tokens]), segments, "causal"),
        targets_BP=jnp.zeros((1, 16), jnp.int32),
        weights={"loss": jnp.ones((1, 16))},
    )
    rows = Rows(tokens_BT=jnp.asarray([data * 2]), segments_BT=segments)
    (stream,) = preview_batch(batch, rows, TOKENIZER, title="").rows[0].streams
    assert np.flatnonzero(stream.changed_W).tolist() == [3]
    assert stream.original == [*[""] * 3, "d", *[""] * 12] and stream.has_other_data


def test_lanes_are_aligned_and_break_at_the_width():
    view, _, _ = preview_text(CausalLM(), TEXT, num_rows=1)
    whole, narrow = lines_of(view), lines_of(view, width=30)
    lane = next(line for line in whole if line.startswith("input ")).removeprefix("input ")
    assert lane.split() == [*TEXT.replace(" ", "·")]
    target = next(line for line in whole if line.startswith("target ")).removeprefix("target ")
    assert target.split() == [*TEXT.replace(" ", "·")[1:], "<eos>"]
    lanes = ("position", "input ", "target ", "weight ", "sees ")
    assert max(len(line) for line in narrow if line.startswith(lanes)) <= 30 < len(lane)
    assert "".join(line.removeprefix("input ") for line in narrow if line.startswith("input ")).split() == lane.split()
    assert f"data  {TEXT.replace(' ', '·')}<eos>" in whole


def test_colour_only_on_a_terminal():
    view, _, _ = preview_text(MaskedLM(rate=0.5), TEXT)

    def printed(**options):
        file = io.StringIO()
        print_preview(view, Console(file=file, width=100, **options))
        return file.getvalue()

    plain, coloured = printed(), printed(force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[" not in plain
    assert "\x1b[30;43m<mask>\x1b[0m" in coloured and "replaced" in coloured


def test_equal_masks_are_drawn_once():
    text = "\n".join(lines_of(preview_text(CausalLM(), TEXT, num_rows=3)[0]))
    assert text.count("queries down") == 1 and text.count("as in the row before") == 2


def test_labels_make_everything_visible():
    text = " \n\t\r\x00é$\u200b"
    labels = [token_label(TOKENIZER, token) for token in [*text.encode()[:5], 0xC3, MASK, 999]]
    assert labels == ["·", "↵", "⇥", "\\r", "\\x00", "\\xc3", "<mask>", "#999"]


def test_the_title_names_what_is_not_the_default():
    assert objective_title(MaskedLM()) == "MaskedLM"
    assert objective_title(MaskedLM(rate=0.4, z_loss=1e-4)) == "MaskedLM(z_loss=0.0001, rate=0.4)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint(MaskedLM):
    """Its loss is a number that names the batch."""

    def terms(self, model, batch, key):
        numbers = batch.targets_BP * (1 + batch.scored_BP) % 101
        return Terms({"loss": jnp.sum(batch.weights["loss"] * numbers) + 0 * jnp.sum(model.embedding.table_VD)}, None)


def test_the_batch_is_the_one_the_training_step_makes():
    objective = Fingerprint(rate=0.3)
    recipe = dataclasses.replace(config(objective), train=TrainConfig(seed=5, batch_size=8, sequence_length=16))
    built = tiny.learner(objective)
    state = built.init(5)
    rows = tiny.random_rows(16)
    for step in range(3):
        batch = step_batch(recipe, tiny.VOCABULARY, rows, step)
        weights, numbers = batch.weights["loss"], batch.targets_BP * (1 + batch.scored_BP) % 101
        with jax.set_mesh(built.mesh):
            state, metrics = built.train_step(state, jax.device_put(rows, built.row_sharding))
        np.testing.assert_allclose(metrics["loss"], jnp.sum(weights * numbers) / jnp.sum(weights), rtol=1e-5)


def test_rows_of_a_step_are_those_of_the_stream(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("input.txt").write_text("".join(f"line {i}\n" for i in range(200)))
    recipe = config(path="input.txt", split="tail")
    corpus = open_corpus(recipe.data, recipe.tokenizer)
    source = corpus.rows("train", row_length=33, seed=7)
    np.testing.assert_array_equal(step_rows(recipe, corpus, 3).tokens_BT, source.rows(range(12, 16)).tokens_BT)


def test_given_text_is_encoded_as_prepared_data_and_cut_to_the_row():
    recipe = config()
    rows = text_rows(recipe, TOKENIZER, ["ab", "cd"], num_rows=3)
    assert rows.tokens_BT.shape == (3, 6) and rows.segments_BT is None
    assert rows.tokens_BT[1].tolist() == [97, 98, EOS, 99, 100, EOS]
    packed = text_rows(config(packing="best_fit"), TOKENIZER, ["ab", "cd"], num_rows=1)
    assert packed.segments_BT[0].tolist() == [1, 1, 1, 2, 2, 2]
    assert text_rows(recipe, TOKENIZER, ["x" * 100], num_rows=1).tokens_BT.shape == (1, 33)
    assert text_documents(["a\n\nb\nc", "d"]) == ["a", "b\nc", "d"]
    with pytest.raises(ValueError, match="--text has no text"):
        text_rows(recipe, TOKENIZER, text_documents(["\n\n"]), num_rows=1)


def test_texts_of_an_example_lie_in_stretches_of_their_own():
    recipe = config(PairwiseReward(), packing="examples", members=("chosen", "rejected"))
    rows = text_rows(recipe, TOKENIZER, ["ab", "c"], num_rows=2)
    assert rows.tokens_BT[1].tolist() == [97, 98, EOS, 99, EOS, PAD]
    assert rows.segments_BT[1].tolist() == [1, 1, 1, 2, 2, 0]
    with pytest.raises(ValueError, match="--text has 1 of the 2 texts PairwiseReward compares: repeat the option"):
        text_rows(recipe, TOKENIZER, ["ab"], num_rows=1)


def test_rows_longer_than_the_text_are_padded():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Even(CausalLM):
        def row_length(self, sequence_length):
            return 2 * sequence_length

    rows = text_rows(config(Even()), TOKENIZER, ["ab", "c"], num_rows=1)
    assert rows.tokens_BT[0].tolist() == [97, 98, EOS, 99, EOS, PAD]
    assert rows.segments_BT[0].tolist() == [1, 1, 1, 1, 1, 0]
    rows = text_rows(config(Even(), packing="segments"), TOKENIZER, ["ab", "c"], num_rows=1)
    assert rows.segments_BT[0].tolist() == [1, 1, 1, 2, 2, 0]


RECIPE = """
from lmjax.data.config import DataConfig
from lmjax.objectives import MaskedLM
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.config import RunConfig, TrainConfig


def small():
    return RunConfig(
        name="small",
        objective=MaskedLM(rate=0.2),
        tokenizer=TokenizerConfig(kind="bytes", special_tokens=("<pad>", "<eos>", "<mask>")),
        data=DataConfig(path="input.txt", split="tail"),
        train=TrainConfig(batch_size=4, sequence_length=32),
    )
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.txt").write_text("".join(f"line {i}\n" for i in range(200)))
    (tmp_path / "small.py").write_text(RECIPE)
    return "small.py"


def test_the_command_separates_its_options_from_the_recipes(recipe, capsys):
    run([recipe, "--rows", "1", "--objective.rate", "0.1", "--width", "9", "--step", "2"])
    text = capsys.readouterr().out
    assert "objective.rate: 0.2 -> 0.1" in text and "MaskedLM(rate=0.1)" in text
    assert "row 0" in text and "row 1" not in text
    assert "of 32 positions; left out, none of them scored: " in text and "4 rows of 32 positions" in text
    run([recipe, "--rows", "1", "--objective.rate", "0.1", "--width", "9", "--step", "3"])
    assert capsys.readouterr().out != text


def test_the_command_takes_text_without_touching_the_data(recipe, capsys):
    pathlib.Path("input.txt").unlink()
    run([recipe, "--rows", "1", "--text", TEXT])
    assert TEXT.replace(" ", "·") in capsys.readouterr().out
    assert not pathlib.Path("data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows=0: must be at least 1"),
        (["--step", "-1"], "--step=-1: must be at least 0"),
        (["--rows", "9"], "--rows=9: a step has train.batch_size=4"),
        (["--tokenizer.special-tokens", "<pad>", "<eos>", "--text", "a"], "'mask'"),
    ],
)
def test_impossible_options_are_refused(recipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        run([recipe, *arguments])


def test_help_names_both_kinds_of_options(recipe, capsys):
    with pytest.raises(SystemExit) as exit_:
        run([recipe, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0 and "--png" in text and "--objective.rate" in text


def test_pictures_are_written(recipe, tmp_path, capsys):
    run([recipe, "--text", "a $x$ fox", "--png", "made/picture.png"])
    assert capsys.readouterr().out.strip().endswith("made/picture.png")
    assert (tmp_path / "made" / "picture.png").read_bytes().startswith(b"\x89PNG")
    batch, rows = encoder_decoder()
    view = preview_batch(batch, rows, TOKENIZER, title=r"pairs of $\frac$")
    svg = draw_preview(view, tmp_path / "pairs.svg").read_text()
    for text in (r"pairs of $\frac$", "encoder input: self attention", "decoder input: cross attention", "time: 0.125"):
        assert text in svg


def test_pictures_without_matplotlib_say_what_to_install(monkeypatch, tmp_path):
    view, _, _ = preview_text(CausalLM(), TEXT)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"lmjax\[plot\]"):
        draw_preview(view, tmp_path / "picture.png")


def test_a_prepared_folders_tokenizer_is_used(tmp_path):
    folder = tmp_path / "prepared"
    made = build_tokenizer(config().tokenizer, lambda: [])
    made.save(folder / "tokenizer")
    assert recipe_tokenizer(config(prepared=str(folder))).fingerprint == made.fingerprint
