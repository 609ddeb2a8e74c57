"""Masked autoencoding: the encoder sees visible patches only, the loss counts hidden ones only."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import FeatureSource, MaskedReconstruction
from lmjax.objectives.masked_reconstruction import encode, reconstruct
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows

KEY = jax.random.key(0)
BYTES = Vocabulary(size=258, byte_length_V=np.array([1] * 256 + [0, 0], np.int32), eos_id=256, pad_id=257)
MODEL = dataclasses.replace(
    tiny.MODEL,
    num_layers=1,
    execution=ExecutionConfig(scan_layers=False, remat="none"),
    positions="sinusoidal",
    vocab_size=258,
)
PLAIN = MaskedReconstruction(
    source=FeatureSource(kind="values", width=3, offset=10.0, scale=20.0),
    rate=0.5,
    normalize_patches=False,
    decoder_width=8,
    decoder_layers=1,
    decoder_heads=2,
)


@functools.cache
def setting():
    """Spec, parameters and a batch of two packed documents, eight patches in a row."""
    spec = module_spec(lambda key: PLAIN.build(MODEL, rngs=nnx.Rngs(params=key)))
    segments_BT = jnp.asarray(tiny.segments([[12, 12], [9, 6]], 24))
    tokens_BT = jnp.asarray(np.random.default_rng(0).integers(0, 60, (2, 24)), jnp.int32)
    rows = Rows(tokens_BT=tokens_BT, segments_BT=segments_BT)
    batch = jax.jit(functools.partial(PLAIN.corrupt, vocabulary=BYTES))(KEY, rows)
    return spec, tiny.random_params(spec), rows, batch


def test_patches_are_the_rows_values_and_half_of_them_are_hidden():
    _, _, rows, batch = setting()
    features = np.asarray(batch.extras["features"])
    np.testing.assert_allclose(features, (np.asarray(rows.tokens_BT).reshape(2, 8, 3) - 10) / 20)
    kept, hidden = np.asarray(batch.extras["kept"]), np.asarray(batch.scored_BP)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, hidden], axis=1)), [range(8)] * 2)
    assert kept.shape == (2, 4)
    # Padding, the last three patches of the second row, is reconstructed by nobody.
    is_padding = (hidden >= 5) & (np.arange(2)[:, None] == 1)
    assert is_padding.any()
    np.testing.assert_array_equal(batch.weights["reconstruction"], ~is_padding)
    assert batch.inputs.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 0, 1, 0, 1, 2]]
    np.testing.assert_array_equal(
        batch.encoder.positions_BT, np.take_along_axis(np.asarray(batch.inputs.positions_BT), kept, axis=1)
    )
    assert batch.encoder.mask.start_BT.shape == (2, 4)


def test_a_reconstruction_reads_visible_patches_of_its_document_and_no_hidden_ones():
    spec, params, _, batch = setting()

    def reconstructions(features_BTD):
        model = spec.bind(params)
        visible_BKD = jnp.take_along_axis(features_BTD, batch.extras["kept"][:, :, None], axis=1)
        states_BKD = encode(model.model, visible_BKD, batch.encoder).states_BTD
        decoder, mask_D = model.extras["decoder"], model.extras["mask_D"][...]
        hidden = reconstruct(decoder, mask_D, states_BKD, batch.extras["kept"], batch.inputs)
        return model.extras["output"](hidden.states_BTD).sum(axis=-1)

    jacobian = jax.jit(jax.jacrev(reconstructions))(batch.extras["features"])
    influence = np.abs(np.asarray(jacobian)).max(axis=-1) > 0  # [B, T by B, T]
    for b in range(2):
        assert not influence[b][:, 1 - b].any()
        number = np.cumsum(np.asarray(batch.inputs.positions_BT[b]) == 0)
        is_kept = np.isin(np.arange(8), np.asarray(batch.extras["kept"][b]))
        expected = (number[:, None] == number[None, :]) & is_kept[None, :]
        np.testing.assert_array_equal(influence[b][:, b], expected)

    # The term itself: hidden patches enter as targets, through which nothing flows back.
    def term(features_BTD):
        changed = dataclasses.replace(batch, extras=batch.extras | {"features": features_BTD})
        return PLAIN.terms(spec.bind(params), changed, None).sums["reconstruction"]

    compiled = jax.jit(jax.value_and_grad(term))
    value, gradient = compiled(batch.extras["features"])
    gradient = np.asarray(gradient)
    np.testing.assert_array_equal(np.take_along_axis(gradient, np.asarray(batch.scored_BP)[:, :, None], axis=1), 0)
    assert np.abs(np.take_along_axis(gradient, np.asarray(batch.extras["kept"])[:, :, None], axis=1)).max() > 0
    moved = batch.extras["features"].at[0, batch.scored_BP[0, 0]].add(1.0)
    assert float(compiled(moved)[0]) != pytest.approx(float(value))


def test_positions_of_visible_patches_matter():
    """The same patches at other places give other states: gathering does not lose where they were."""
    spec, params, _, batch = setting()
    visible = jnp.take_along_axis(batch.extras["features"], batch.extras["kept"][:, :, None], axis=1)
    shifted = dataclasses.replace(batch.encoder, positions_BT=batch.encoder.positions_BT + 1)
    states = jax.jit(lambda stream: encode(spec.bind(params).model, visible, stream).states_BTD)
    assert float(jnp.abs(states(batch.encoder) - states(shifted)).max()) > 1e-3


@pytest.mark.parametrize("normalize", [False, True])
def test_loss_of_a_model_that_says_zero(normalize):
    spec, _, rows, batch = setting()
    objective = dataclasses.replace(PLAIN, normalize_patches=normalize)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), spec.shapes)
    loss = jax.jit(lambda params: objective.terms(spec.bind(params), batch, None).sums)(zeros)["reconstruction"]
    hidden = np.asarray(batch.scored_BP)
    patches = np.take_along_axis((np.asarray(rows.tokens_BT).reshape(2, 8, 3) - 10) / 20, hidden[:, :, None], axis=1)
    # A normalised patch of three numbers has the squares' sum 2 by its variance over two.
    errors = np.full(hidden.shape, 2 / 3) if normalize else (patches**2).mean(axis=-1)
    expected = (errors * np.asarray(batch.weights["reconstruction"])).sum()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 1.0}, "objective.rate=1.0"),
        ({"decoder_layers": 0}, "objective.decoder_layers=0"),
        ({"decoder_width": 10, "decoder_heads": 4}, "objective.decoder_width=10 is not divisible"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MaskedReconstruction(**options)


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ({"rate": 0.9}, {}, "train.sequence_length=8: at objective.rate=0.9"),
        ({}, {"positions": "alibi"}, "model.positions='alibi'"),
        ({}, {"windows": (4,)}, r"model.windows=\(4,\)"),
        ({}, {"num_types": 2}, "model.num_types=2: MaskedReconstruction reads vectors"),
        ({"decoder_width": 6, "decoder_heads": 2}, {"positions": "rope"}, "objective.decoder_width=6 .* rotary"),
        ({"source": FeatureSource(kind="values", width=1), "normalize_patches": True}, {}, "normalize_patches=True"),
    ],
)
def test_model_that_does_not_fit_is_refused(options, change, words):
    PLAIN.check(model=MODEL, vocabulary=BYTES, sequence_length=8)
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(PLAIN, **options).check(
            model=dataclasses.replace(MODEL, **change), vocabulary=BYTES, sequence_length=8
        )


def test_sources_make_as_many_vectors_as_rows_are_asked_for():
    for source, tokens in (
        (FeatureSource(kind="glyphs", width=24), 24),
        (FeatureSource(kind="glyphs", width=12), 12),
        (FeatureSource(kind="glyphs", width=36), 36),
        (FeatureSource(kind="tones", width=5, frames=3), 8),
        (FeatureSource(kind="values", width=7), 168),
    ):
        assert source.num_tokens(24) == tokens
        features = jax.eval_shape(source.features, KEY, jax.ShapeDtypeStruct((2, tokens), jnp.int32))
        assert features.shape == (2, 24, source.width)
        assert features.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "images"}, "objective.source.kind='images'"),
        ({"width": 0}, "objective.source.width=0"),
        ({"width": 10}, "objective.source.width=10: .* 6 pixels high"),
        ({"kind": "tones", "noise": -1.0}, "objective.source.noise=-1.0"),
        ({"kind": "values", "frames": 2}, "objective.source.frames=2 is for kind='tones'"),
        ({"kind": "tones", "scale": 255.0}, "objective.source.scale=255.0 is for kind='values'"),
    ],
)
def test_impossible_sources_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        FeatureSource(**options)


def test_source_that_does_not_fit_tokenizer_or_length_is_refused():
    with pytest.raises(ValueError, match="set tokenizer.kind to bytes"):
        FeatureSource().check(tiny.VOCABULARY)
    FeatureSource().check(BYTES)
    FeatureSource(kind="values").check(tiny.VOCABULARY)
    with pytest.raises(ValueError, match="train.sequence_length=10: 4 vectors are made of 1 tokens"):
        FeatureSource(kind="tones").num_tokens(10)


def test_own_features_need_no_rows_of_tokens():
    """As documented: arrays of one's own, and a class that makes them of rows."""
    features = jax.random.normal(KEY, (2, 8, 3))
    rows = Rows(tokens_BT=jnp.zeros((2, 8), jnp.int32))
    spec, params, _, _ = setting()
    batch = jax.eval_shape(PLAIN.corrupt_features, KEY, features, rows)
    assert batch.encoder.mask.kind == "full"
    loss = jax.eval_shape(lambda params, batch: PLAIN.terms(spec.bind(params), batch, None).sums, params, batch)
    assert loss["reconstruction"].shape == ()

    class Doubled(MaskedReconstruction):
        def features(self, key, rows):
            return 2 * super().features(key, rows)

    _, _, rows, batch = setting()
    doubled = Doubled(**{field.name: getattr(PLAIN, field.name) for field in dataclasses.fields(PLAIN)})
    made = jax.jit(functools.partial(doubled.corrupt, vocabulary=BYTES))(KEY, rows)
    np.testing.assert_allclose(made.extras["features"], 2 * batch.extras["features"], rtol=1e-6)
