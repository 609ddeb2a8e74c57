"""Objectives of two stacks: what the encoder reads, what the decoder writes, and that neither sees what it must not."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.corruption import DenoiseConfig, Denoiser
from lmjax.objectives import UL2, CausalLM, Denoising, Mixture, Part, SpanCorruption
from lmjax.objectives.parts.encoder_decoder import paired_batch
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.components import decoder_length, paired
from lmjax.types import Rows

R, S, X, EOS, PAD, MASK, BOS = 60, 61, 62, 63, 59, 58, 57
SENTINELS = tuple(range(56, 40, -1))
TEXT = 41
STOP = 40
VOCABULARY = Vocabulary(
    size=64,
    pad_id=PAD,
    bos_id=BOS,
    eos_id=EOS,
    mask_id=MASK,
    sentinel_ids=SENTINELS,
    named_ids={"[R]": R, "[S]": S, "[X]": X},
    byte_length_V=np.array([1] * TEXT + [0] * (64 - TEXT), np.int32),
    sentence_end_V=np.arange(64) == STOP,
)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, encoder_layers=1)
SPANS = SpanCorruption(form="encoder_decoder", density=0.4, mean_span=2.0, documents_per_row=2)
MIXED = UL2(form="encoder_decoder", documents_per_row=2)
NOISY = Denoising(
    noise=DenoiseConfig(permute_sentences=True, rotate=0.3, mask=0.1, delete=0.1, replace=0.1, insert=0.1)
)
NUM_ROWS, SEQUENCE = 64, 40


@functools.cache
def corrupt(objective, vocabulary=VOCABULARY):
    return jax.jit(functools.partial(objective.corrupt, vocabulary=vocabulary))


def packed_rows(objective, *, weighted=False, num_rows=NUM_ROWS):
    """Two documents and some padding a row, of tokens that tell their own place."""
    length = objective.row_length(SEQUENCE)
    segments = jnp.asarray(tiny.segments([[13, length - 16]] * num_rows, length))
    tokens = jnp.where(segments > 0, jnp.arange(length, dtype=jnp.int32)[None, :] % STOP, PAD)
    weights = (tokens + 1.0) * (segments > 0) if weighted else None
    return Rows(tokens_BT=tokens, segments_BT=segments, weights_BT=weights)


def documents_of(batch, row):
    """What the encoder reads, what the decoder is given, and what it is to write, by document of the decoder."""
    cross, positions = batch.cross_mask, np.asarray(batch.inputs.positions_BT[row])
    starts = [*np.flatnonzero(positions == 0), len(positions)]
    for start, end in itertools.pairwise(starts):
        keys = slice(int(cross.start_BT[row, start]), int(cross.end_BT[row, start]))
        encoder, given, targets = (
            np.asarray(tokens)[row][part].tolist()
            for tokens, part in (
                (batch.encoder.tokens_BT, keys),
                (batch.inputs.tokens_BT, slice(start, end)),
                (batch.targets_BP, slice(start, end)),
            )
        )
        if set(targets) != {PAD}:
            yield encoder, given, targets


def restore(inputs, targets):
    """T5's inverse: each sentinel of the input gives way to what follows it in the targets."""
    spans, current = {}, None
    for token in targets:
        current = token if token in SENTINELS else current
        spans.setdefault(current, []).append(token)
    return [t for token in inputs for t in (spans[token][1:] if token in SENTINELS else [token])]


def test_span_corruption_worked_by_hand():
    """Six tokens, half of them noise in one span, the last three."""
    objective, first = SpanCorruption(form="encoder_decoder", density=0.5, mean_span=3.0), SENTINELS[0]
    batch = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=jnp.array([[10, 11, 12, 13, 14, 15]])))
    assert (objective.row_length(5), objective.decoder_length(5)) == (6, 5)
    np.testing.assert_array_equal(batch.encoder.tokens_BT, [[10, 11, 12, first, EOS]])
    np.testing.assert_array_equal(batch.inputs.tokens_BT, [[PAD, first, 13, 14, 15]])
    np.testing.assert_array_equal(batch.targets_BP, [[first, 13, 14, 15, EOS]])
    np.testing.assert_array_equal(batch.weights["loss"], np.ones((1, 5)))
    assert (batch.encoder.mask.kind, batch.inputs.mask.kind, batch.cross_mask.kind) == ("full", "causal", "full")
    np.testing.assert_array_equal(batch.cross_mask.end_BT, [[5] * 5])


def test_ul2_worked_by_hand():
    """S on four tokens, half of them dropped."""
    objective = UL2(form="encoder_decoder", denoisers=(Denoiser(mode="S", density=0.5),))
    assert (objective.row_length(4), objective.decoder_length(4)) == (4, 3)
    batch = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=jnp.array([[10, 11, 12, 13]])))
    np.testing.assert_array_equal(batch.encoder.tokens_BT, [[S, 10, 11, EOS]])
    np.testing.assert_array_equal(batch.inputs.tokens_BT, [[PAD, 12, 13]])
    np.testing.assert_array_equal(batch.targets_BP, [[12, 13, EOS]])


def test_denoising_worked_by_hand():
    """All masked, an end of text in the middle left alone; every token is a target."""
    objective = Denoising(noise=DenoiseConfig(infill=0.0, mask=1.0))
    batch = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=jnp.array([[10, 11, EOS, 12]])))
    np.testing.assert_array_equal(batch.encoder.tokens_BT, [[MASK, MASK, EOS, MASK]])
    np.testing.assert_array_equal(batch.inputs.tokens_BT, [[EOS, 10, 11, EOS]])
    np.testing.assert_array_equal(batch.targets_BP, [[10, 11, EOS, 12]])
    np.testing.assert_array_equal(batch.weights["loss"], np.ones((1, 4)))


def test_lengths_are_those_of_t5(golden):
    """Raw tokens and targets for given inputs, and static shapes that are just so."""
    many = dataclasses.replace(VOCABULARY, sentinel_ids=SENTINELS * 20)
    for case in json.loads((golden / "t5_spans.json").read_text())["lengths"]:
        objective = SpanCorruption(
            form="encoder_decoder", density=case["noise_density"], mean_span=case["mean_noise_span_length"]
        )
        length, inputs, targets = (case[f"{name}_length"] for name in ("tokens", "inputs", "targets"))
        assert (objective.row_length(inputs), objective.decoder_length(inputs)) == (length, targets)
        rows = Rows(tokens_BT=jax.ShapeDtypeStruct((1, length), jnp.int32))
        batch = jax.eval_shape(functools.partial(objective.corrupt, vocabulary=many), jax.random.key(0), rows)
        assert (batch.encoder.tokens_BT.shape, batch.inputs.tokens_BT.shape) == ((1, inputs), (1, targets))


@pytest.mark.parametrize("sequence_length", [9, 64, 100, 512])
def test_the_encoder_has_the_sequence_length_and_the_decoder_what_it_needs(sequence_length):
    many = dataclasses.replace(VOCABULARY, sentinel_ids=SENTINELS * 20)
    for objective in (MIXED, SPANS, Denoising(), NOISY):
        length = objective.row_length(sequence_length)
        rows = Rows(tokens_BT=jax.ShapeDtypeStruct((1, length), jnp.int32))
        batch = jax.eval_shape(functools.partial(objective.corrupt, vocabulary=many), jax.random.key(0), rows)
        slack = sequence_length - batch.encoder.tokens_BT.shape[1]
        assert 0 <= slack <= (2 if objective is NOISY else 0)
        assert batch.inputs.tokens_BT.shape == (1, objective.decoder_length(sequence_length))


@pytest.mark.parametrize("objective", [SPANS, MIXED], ids=["t5", "ul2"])
def test_input_and_targets_give_every_packed_document_back(objective):
    rows = packed_rows(objective, weighted=True)
    batch = corrupt(objective)(jax.random.key(0), rows)
    modes = set()
    for row in range(NUM_ROWS):
        for number, (encoder, given, targets) in enumerate(documents_of(batch, row), start=1):
            assert given == [PAD, *targets[:-1]]
            assert encoder.pop() == targets.pop() == EOS
            mode = encoder.pop(0) if objective is MIXED else None
            whole = encoder + targets if mode == S else restore(encoder, targets)
            assert whole == np.asarray(rows.tokens_BT[row])[np.asarray(rows.segments_BT[row]) == number].tolist()
            modes.add(mode)
        assert number == 2
    assert modes == ({R, S, X} if objective is MIXED else {None})


def test_what_is_dropped_reaches_neither_the_encoder_nor_a_place_before_its_own():
    """Each token of a row is exchanged in turn: which inputs change says what could tell it."""
    row = packed_rows(SPANS, num_rows=1)
    length = row.tokens_BT.shape[1]
    tokens = jnp.tile(row.tokens_BT, (length + 1, 1)).at[jnp.arange(length), jnp.arange(length)].set(STOP)
    one = jax.jit(
        lambda tokens_1T: SPANS.corrupt(jax.random.key(4), dataclasses.replace(row, tokens_BT=tokens_1T), VOCABULARY)
    )
    many = jax.device_get([one(tokens[place][None]) for place in range(length + 1)])
    encoder = np.concatenate([batch.encoder.tokens_BT for batch in many])
    given = np.concatenate([batch.inputs.tokens_BT for batch in many])
    targets = np.concatenate([batch.targets_BP for batch in many])
    num_dropped = 0
    for place in range(length - 3):
        told = np.flatnonzero(encoder[place] != encoder[-1])
        asked = np.flatnonzero(targets[place] != targets[-1])
        # A token is either read or asked for, once.
        assert (len(told), len(asked)) in ((1, 0), (0, 1))
        if len(asked):
            np.testing.assert_array_equal(np.flatnonzero(given[place] != given[-1]), asked + 1)
            num_dropped += 1
    assert 12 <= num_dropped <= 24


def test_every_noise_leaves_the_targets_alone_and_the_encoder_knows_no_more_than_it_is_shown():
    rows = packed_rows(NOISY)
    batch = corrupt(NOISY)(jax.random.key(0), rows)
    np.testing.assert_array_equal(batch.targets_BP, rows.tokens_BT)
    np.testing.assert_array_equal(batch.weights["loss"], rows.segments_BT > 0)
    data = np.asarray(rows.tokens_BT)
    moved = 0
    for row in range(NUM_ROWS):
        for number, (encoder, given, targets) in enumerate(documents_of(batch, row), start=1):
            assert given == [EOS, *targets[:-1]]
            own = data[row][np.asarray(rows.segments_BT[row]) == number].tolist()
            # A tenth is replaced or inserted; nothing else of another document can be there.
            assert len(set(encoder) - {MASK, *own}) <= 0.5 * len(own) + 4
            kept = [own.index(token) for token in encoder if token in own]
            moved += kept != sorted(kept)
    assert moved > NUM_ROWS / 4


def test_the_encoder_has_room_for_whatever_noise_adds():
    """The last token of the data, which no noise touches, is read in every row."""
    objective = Denoising(noise=DenoiseConfig(infill=0.3, infill_mean=0.5, insert=0.3))
    length = objective.row_length(80)
    assert 20 < length < 60
    rows = Rows(tokens_BT=jnp.zeros((2048, length), jnp.int32).at[:, -1].set(EOS))
    batch = corrupt(objective)(jax.random.key(1), rows)
    read = np.asarray(batch.encoder.tokens_BT)
    assert (read == EOS).any(axis=1).all()
    assert (read != PAD).sum(axis=1).mean() > 1.2 * length


def test_sentences_end_where_the_tokenizer_says():
    objective = Denoising(noise=DenoiseConfig(infill=0.0, permute_sentences=True))
    row = [1, 2, STOP, STOP, 3, STOP, 4, 5, 6, EOS]
    sentences = {(1, 2, STOP, STOP), (3, STOP), (4, 5, 6)}
    read = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=jnp.array([row] * 64))).encoder.tokens_BT
    orders = set()
    for tokens in np.asarray(read).tolist():
        assert tokens.pop() == EOS
        order = sorted(sentences, key=lambda sentence: tokens.index(sentence[0]))
        assert [token for sentence in order for token in sentence] == tokens
        orders.add(tuple(order))
    assert len(orders) == 6
    ends = ByteTokenizer({"<eos>": 256}).vocabulary.sentence_end_V
    assert [chr(i) for i in np.flatnonzero(ends)] == ["!", ".", "?"]


@pytest.mark.parametrize("objective", [SPANS, MIXED], ids=["t5", "ul2"])
def test_data_weights_move_with_their_tokens(objective):
    rows = packed_rows(objective, weighted=True)
    batch = corrupt(objective)(jax.random.key(0), rows)
    targets, weights = np.asarray(batch.targets_BP), np.asarray(batch.weights["loss"])
    is_text = (weights > 0) & (targets < TEXT)
    assert is_text.sum() > NUM_ROWS * 4
    np.testing.assert_array_equal(weights[is_text], targets[is_text] + 1)
    # Sentinels and the end of text weigh what their document's last token weighs.
    ends = {float(rows.weights_BT[0, 12]), float(rows.weights_BT[0, -4])}
    assert set(weights[(weights > 0) & (targets >= TEXT)]) == ends
    np.testing.assert_array_equal(weights > 0, np.asarray(batch.targets_BP) != PAD)


def test_weights_of_rows_without_bounds_move_too():
    objective = SpanCorruption(form="encoder_decoder", density=0.4)
    tokens = jnp.arange(30, dtype=jnp.int32)[None, :]
    batch = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=tokens, weights_BT=tokens + 1.0))
    targets = np.asarray(batch.targets_BP)
    expected = np.where(targets < TEXT, targets + 1, 30)
    np.testing.assert_array_equal(batch.weights["loss"], expected)


def test_a_document_whose_input_was_cut_is_not_learned_from():
    """Eight documents in a row that has room for one: those that no longer fit the encoder's row weigh nothing."""
    objective = dataclasses.replace(SPANS, documents_per_row=1)
    length = objective.row_length(SEQUENCE)
    segments = jnp.asarray(tiny.segments([[length // 8] * 8] * 4, length))
    tokens = jnp.where(segments > 0, 1, PAD)
    batch = corrupt(objective)(jax.random.key(0), Rows(tokens_BT=tokens, segments_BT=segments))
    weights = np.asarray(batch.weights["loss"])
    read, cut = 0, 0
    for row in range(4):
        place = 0
        for encoder, _, targets in documents_of(batch, row):
            is_whole = bool(encoder) and encoder[-1] == EOS
            assert (weights[row, place : place + len(targets)] > 0).all() == is_whole
            place += len(targets)
            read, cut = read + is_whole, cut + (not is_whole)
    assert read > cut > 0


def test_no_prediction_depends_on_what_it_predicts_and_every_one_on_the_encoder():
    """How the state of each decoder position moves with what stands at each place of both streams."""
    spec = tiny.model_spec(MODEL)
    params = tiny.random_params(spec)
    batch = corrupt(SPANS)(jax.random.key(0), packed_rows(SPANS, weighted=True))
    batch = jax.tree.map(lambda leaf: leaf[:2], batch)

    def state(shifts, place):
        model = spec.bind(params)
        source_BSD = model.encoder.embed(batch.encoder, table=model.embedding) + shifts["encoder"]
        source_BSD = model.encoder.run(source_BSD, batch.encoder.positions_BT, batch.encoder.mask).states_BTD
        x_BTD = model.embed(batch.inputs) + shifts["decoder"]
        positions_BT, mask = batch.inputs.positions_BT, batch.inputs.mask
        across = {"source_BSD": source_BSD, "cross_mask": batch.cross_mask}
        hidden_BTD = model.run(x_BTD, positions_BT, mask, **across).states_BTD
        return jnp.sum(hidden_BTD[:, place] ** 3)

    streams = {"encoder": batch.encoder, "decoder": batch.inputs}
    shifts = {name: jnp.zeros((*stream.tokens_BT.shape, 16)) for name, stream in streams.items()}
    places = jnp.arange(batch.inputs.tokens_BT.shape[1])
    gradients = jax.jit(lambda: jax.lax.map(lambda place: jax.grad(state)(shifts, place), places))()
    # From [T, B, S or T, D]; the rows do not meet.
    moves = {name: np.abs(array).sum(axis=-1).swapaxes(0, 1) > 0 for name, array in gradients.items()}
    num_keys = {name: array.shape[2] for name, array in moves.items()}
    np.testing.assert_array_equal(moves["decoder"], batch.inputs.mask.dense(num_keys["decoder"]))
    np.testing.assert_array_equal(moves["encoder"], batch.cross_mask.dense(num_keys["encoder"]))
    assert not np.triu(moves["decoder"][0], 1).any()
    assert moves["encoder"].any(axis=2)[np.asarray(batch.weights["loss"]) > 0].all()


def test_jit_changes_nothing_about_pairing():
    rows = packed_rows(SPANS, num_rows=2)
    inputs = Rows(tokens_BT=rows.tokens_BT[:, ::2], segments_BT=rows.segments_BT[:, ::2])
    pair = functools.partial(paired_batch, start_id=PAD)
    jax.tree.map(np.testing.assert_array_equal, pair(inputs, rows), jax.jit(pair)(inputs, rows))


def test_the_form_is_found_in_a_mixture_too():
    mixture = Mixture(parts=(Part(name="t5", objective=SPANS), Part(name="bart", objective=Denoising())))
    assert (paired(mixture), paired(SPANS), paired(CausalLM()), paired(SpanCorruption())) == (SPANS, SPANS, None, None)
    assert (
        decoder_length(SpanCorruption(form="encoder_decoder"), 512) == 114 and decoder_length(CausalLM(), 512) is None
    )


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        (SPANS, {"pad_id": None}, "SpanCorruption's decoder, to begin with, needs a 'pad' token"),
        (Denoising(), {"eos_id": None}, "Denoising's decoder, to begin with, needs a 'eos' token"),
        (Denoising(), {"mask_id": None}, "Denoising needs a 'mask' token"),
        (NOISY, {"sentence_end_V": None}, r"objective\.noise\.permute_sentences=True"),
        (SPANS, {"sentinel_ids": SENTINELS[:2]}, r"tokenizer\.num_sentinels=2: .* raise objective\.mean_span"),
        (MIXED, {"named_ids": {}}, r"UL2 needs a '\[R\]' token"),
    ],
)
def test_a_tokenizer_that_lacks_something_is_refused(objective, changes, words):
    objective.check(model=MODEL, vocabulary=VOCABULARY, sequence_length=24)
    with pytest.raises(ValueError, match=words):
        objective.check(model=MODEL, vocabulary=dataclasses.replace(VOCABULARY, **changes), sequence_length=24)


def test_models_and_lengths_that_do_not_suit_are_refused():
    check = functools.partial(SPANS.check, vocabulary=VOCABULARY, sequence_length=24)
    with pytest.raises(ValueError, match=r"model\.encoder_layers=0: SpanCorruption as configured"):
        check(model=tiny.MODEL)
    with pytest.raises(ValueError, match=r"model\.encoder_layers=1: SpanCorruption trains a single stack"):
        SpanCorruption().check(model=MODEL, vocabulary=VOCABULARY, sequence_length=24)
    with pytest.raises(ValueError, match=r"train\.sequence_length=4 .* set it to at least \d"):
        check(model=MODEL, sequence_length=4)
    with pytest.raises(ValueError, match=r"objective\.form='both'"):
        SpanCorruption(form="both")
    # At a density of 0.8 there is more to write than to read.
    learned = dataclasses.replace(MODEL, positions="learned", max_length=24)
    check(model=learned)
    much = dataclasses.replace(SPANS, density=0.8, mean_span=8.0)
    with pytest.raises(ValueError, match=r"sequence_length=24 makes \d+ positions of the decoder.*model\.max_length"):
        much.check(model=learned, vocabulary=VOCABULARY, sequence_length=24)
