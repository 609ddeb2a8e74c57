"""Masked frames: what a hidden frame is named after is not what the model heard of it."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.corruption import fit_centroids
from lmjax.losses import masked_cluster_loss
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import FeatureSource, MaskedFrames
from lmjax.objectives.masked_frames import cluster_head, run_on_frames
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows

KEY = jax.random.key(0)
BYTES = Vocabulary(size=257, byte_length_V=np.array([1] * 256 + [0], np.int32), pad_id=256)
MODEL = dataclasses.replace(
    tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"), vocab_size=257
)
TONES = FeatureSource(kind="tones", width=6, frames=3)
COSINE = MaskedFrames(source=TONES, start_rate=0.1, span=4, alpha=0.7, num_clusters=8, cluster_width=5)
LINEAR = dataclasses.replace(COSINE, head="linear", alpha=1.0)


@functools.cache
def setting(objective: MaskedFrames):
    """Spec, parameters and a batch of packed recordings, 30 frames in a row."""
    spec = module_spec(lambda key: objective.build(MODEL, rngs=nnx.Rngs(params=key)))
    tokens_BT = jnp.asarray(np.random.default_rng(0).integers(40, 60, (16, 10)), jnp.int32)
    rows = Rows(tokens_BT=tokens_BT, segments_BT=jnp.asarray(tiny.segments([[5, 5], [8]] * 8, 10)))
    corrupt = jax.jit(functools.partial(objective.corrupt, vocabulary=BYTES))
    return spec, tiny.random_params(spec), rows, corrupt(KEY, rows)


def logits_of(objective, spec, params, batch, features_BTD):
    model = spec.bind(params)
    hidden_BTD = run_on_frames(model, features_BTD, batch.extras["is_hidden"], batch.inputs).states_BTD
    states, matrix, bias = cluster_head(model, hidden_BTD, objective.temperature)
    return hidden_BTD, states @ matrix + (0 if bias is None else bias[None, None, :])


def test_every_frame_is_either_masked_or_not_and_padding_is_neither():
    _, _, rows, batch = setting(COSINE)
    masked, unmasked = (np.asarray(batch.weights[name]) for name in ("masked", "unmasked"))
    is_masked = np.asarray(batch.extras["is_hidden"])
    real = np.repeat(np.asarray(rows.segments_BT) > 0, 3, axis=1)
    np.testing.assert_array_equal(masked, is_masked & real)
    np.testing.assert_array_equal(masked + unmasked, real)
    assert not is_masked[~real].any()
    # Frames of one recording know no other: a byte's three frames share its segment.
    positions = np.asarray(batch.inputs.positions_BT)
    np.testing.assert_array_equal(positions[0], [*range(15), *range(15)])
    assert list(setting(LINEAR)[3].weights) == ["masked"]
    assert COSINE.coefficients() == {"masked": 0.7, "unmasked": pytest.approx(0.3)}


@pytest.mark.parametrize("objective", [COSINE, LINEAR], ids=lambda o: o.head)
def test_a_hidden_frame_is_named_without_hearing_any_hidden_frame(objective):
    spec, params, _, batch = setting(objective)

    def score(features_BTD):
        _, logits_BTV = logits_of(objective, spec, params, batch, features_BTD)
        return jnp.sum(batch.weights["masked"] * logits_BTV[:, :, 3])

    gradient = np.abs(np.asarray(jax.jit(jax.grad(score))(batch.extras["features"]))).max(axis=-1)
    is_masked = np.asarray(batch.extras["is_hidden"])
    np.testing.assert_array_equal(gradient[is_masked], 0)
    # In the one recording of the second row every frame that can be heard is.
    assert (gradient[1, :24][~is_masked[1, :24]] > 0).all()
    np.testing.assert_array_equal(gradient[1, 24:], 0)


def test_logits_are_cosines_over_the_temperature_and_terms_their_cross_entropy():
    spec, params, _, batch = setting(COSINE)

    @jax.jit
    def both(params):
        hidden, logits = logits_of(COSINE, spec, params, batch, batch.extras["features"])
        return COSINE.terms(spec.bind(params), batch, None).sums, hidden, logits

    terms, hidden_BTD, logits_BTV = both(params)
    output, table = params["extras"]["output"], np.asarray(params["extras"]["clusters_VE"])
    states = np.asarray(hidden_BTD) @ np.asarray(output["weight"]) + np.asarray(output["bias"])
    lengths = np.linalg.norm(states, axis=-1)[..., None] * np.linalg.norm(table, axis=-1)
    np.testing.assert_allclose(logits_BTV, states @ table.T / lengths / 0.1, rtol=1e-4, atol=1e-4)
    losses_BT = masked_cluster_loss(logits_BTV, batch.extras["cluster"], jnp.ones(batch.extras["cluster"].shape, bool))
    for name, weights_BT in batch.weights.items():
        assert float(terms[name]) == pytest.approx(float(jnp.sum(weights_BT * losses_BT)), rel=1e-4)
    assert np.abs(np.asarray(logits_BTV)).max() <= 10


def test_clusters_are_of_the_clean_frames_and_stay_the_same_for_all_steps():
    _, _, rows, batch = setting(COSINE)
    quiet = dataclasses.replace(COSINE, source=dataclasses.replace(TONES, noise=0.0))
    corrupt = jax.jit(functools.partial(quiet.corrupt, vocabulary=BYTES))
    first, second = (corrupt(jax.random.key(seed), rows) for seed in (1, 2))
    np.testing.assert_array_equal(first.extras["cluster"], second.extras["cluster"])
    assert (np.asarray(first.extras["is_hidden"]) != np.asarray(second.extras["is_hidden"])).any()
    # Without noise a byte's frames are alike, so they have one cluster, and bytes differ in it.
    clusters = np.asarray(first.extras["cluster"]).reshape(16, 10, 3)
    assert (clusters == clusters[:, :, :1]).all()
    assert len(np.unique(clusters)) > 2
    assert 0 <= np.asarray(batch.extras["cluster"]).min() <= np.asarray(batch.extras["cluster"]).max() < 8


def test_centroids_of_a_file_take_the_place_of_the_projection(tmp_path):
    _, _, _, batch = setting(COSINE)
    features = batch.extras["features"]
    centroids = np.asarray(fit_centroids(KEY, features.reshape(-1, 6), num_clusters=8, num_steps=5))
    np.save(path := tmp_path / "centroids.npy", centroids)
    objective = dataclasses.replace(COSINE, centroids=str(path))
    objective.check(model=MODEL, vocabulary=BYTES, sequence_length=30)
    distances = np.square(np.asarray(features)[:, :, None] - centroids).sum(axis=-1)
    np.testing.assert_array_equal(objective.clusters(features), distances.argmin(axis=-1))
    np.save(tmp_path / "narrow.npy", centroids[:, :3])
    (tmp_path / "text.npy").write_text("0 1 2")
    for name, words in (("absent", "no file there"), ("narrow", r"float32 \[8, 3\]: must be"), ("text", "is not a")):
        wrong = dataclasses.replace(objective, centroids=str(tmp_path / f"{name}.npy"))
        with pytest.raises(ValueError, match=words):
            wrong.check(model=MODEL, vocabulary=BYTES, sequence_length=30)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_rate": 1.5}, "objective.start_rate=1.5"),
        ({"alpha": -0.1}, "objective.alpha=-0.1"),
        ({"span": 0}, "objective.span=0"),
        ({"num_clusters": 1}, "objective.num_clusters=1"),
        ({"head": "bilinear"}, "objective.head='bilinear'"),
        ({"temperature": 0.0}, "objective.temperature=0.0"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        MaskedFrames(**options)


def test_sequences_too_short_to_mask_are_refused():
    for length, options in ((3, {}), (30, {"start_rate": 0.01})):
        with pytest.raises(ValueError, match=f"train.sequence_length={length}: .* nothing of a row is masked"):
            dataclasses.replace(COSINE, **options).check(model=MODEL, vocabulary=BYTES, sequence_length=length)
    assert math.isclose(sum(COSINE.coefficients().values()), 1)


def test_frames_written_as_text_come_back_as_they_were():
    """As documented: integers from 0 to 127 as the characters of these codes, through the bytes tokenizer."""
    frames = np.arange(128).reshape(16, 8)
    line = json.loads(json.dumps({"text": "".join(map(chr, frames.ravel()))}))
    ids = ByteTokenizer({"<pad>": 256}).encode(line["text"])
    source = FeatureSource(kind="values", width=8, offset=64.0, scale=16.0)
    np.testing.assert_array_equal(source.features(KEY, jnp.asarray(ids)[None]), [(frames - 64) / 16])
