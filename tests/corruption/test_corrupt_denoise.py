"""BART noise: each kind alone against theory, order-changing kinds as exact permutations, and all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import DenoiseConfig, denoise

VOCAB, MASK, BOS, EOS = 100, 1, 2, 3
CLEAN = {"infill": 0.0}
noisy = jax.jit(
    functools.partial(denoise, vocab_size=VOCAB, mask_id=MASK, special_ids=(0, BOS, EOS)),
    static_argnums=2,
    static_argnames=("length",),
)


@pytest.fixture(scope="module")
def rows():
    """Documents of distinct tokens: any row tells where each of its tokens came from."""
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.permutation(np.arange(4, 99))[:60] for _ in range(2048)]).astype(np.int32)
    segments = np.repeat(np.asarray([5, 6, 0]), [30, 26, 4])[None, :].repeat(2048, 0).astype(np.int32)
    tokens[:, [0, 30]] = BOS
    tokens[:, [29, 55]] = EOS
    tokens[:, 56:] = 0
    sentences = (np.arange(60) // 7)[None, :].repeat(2048, 0).astype(np.int32)
    return tokens, segments, sentences


def run(rows, length=60, **config):
    tokens, segments, sentences = rows
    out = noisy(
        jax.random.key(0), tokens, DenoiseConfig(**config), segments_BT=segments, sentences_BT=sentences, length=length
    )
    return np.asarray(out.tokens_BT), np.asarray(out.segments_BT)


def near(count, trials, rate):
    return abs(count - trials * rate) <= 3 * np.sqrt(trials * rate * (1 - rate))


def test_single_token_noise_has_its_rates(rows):
    tokens, _, _ = rows
    eligible = tokens > EOS
    assert eligible.sum() > 1e5
    masked, _ = run(rows, **CLEAN, mask=0.2)
    assert (masked[~eligible] == tokens[~eligible]).all()
    changed = masked != tokens
    assert (masked[changed] == MASK).all()
    assert near(changed.sum(), eligible.sum(), 0.2)
    replaced, _ = run(rows, **CLEAN, replace=0.2)
    assert (replaced[~eligible] == tokens[~eligible]).all()
    assert (replaced[eligible] > EOS).all()
    assert near((replaced != tokens).sum(), eligible.sum(), 0.2 * (1 - 1 / (VOCAB - 4)))


def test_deleted_and_inserted_tokens(rows):
    tokens, segments, _ = rows
    num_eligible = (tokens > EOS).sum()
    deleted, numbers = run(rows, **CLEAN, delete=0.2)
    kept = (numbers > 0).sum()
    assert near((segments > 0).sum() - kept, num_eligible, 0.2)
    inserted, inserted_numbers = run(rows, **CLEAN, insert=0.2, length=90)
    assert near((inserted_numbers > 0).sum() - (segments > 0).sum(), num_eligible, 0.2)
    for row in range(20):
        for number in (5, 6):
            original = tokens[row][segments[row] == number].tolist()
            shorter = deleted[row][numbers[row] == number].tolist()
            longer = inserted[row][inserted_numbers[row] == number].tolist()
            assert subsequence(shorter, original)
            assert subsequence(original, longer)
    assert (deleted[numbers == 0] == 0).all()


def subsequence(short, long):
    remaining = iter(long)
    return all(token in remaining for token in short)


def test_infilling_covers_its_share_with_poisson_spans(rows):
    tokens, segments, _ = rows
    out, numbers = run(rows, infill=0.3)
    num_tokens, num_masks = (segments > 0).sum(), (out == MASK).sum()
    kept = (numbers > 0).sum() - num_masks
    # The budget is met exactly, rounded at random once a row.
    assert abs((num_tokens - kept) - 0.3 * (tokens > EOS).sum()) < 3 * np.sqrt(0.25 * 2048)
    for row in range(50):
        for number in (5, 6):
            original = tokens[row][segments[row] == number].tolist()
            visible = out[row][(numbers[row] == number) & (out[row] != MASK)].tolist()
            assert subsequence(visible, original)
            assert visible[0] == BOS
            assert visible[-1] == EOS
    lengths = hidden_lengths(out, numbers, tokens, segments)
    share_empty = (lengths == 0).mean()
    # Poisson(3): 5.0% of the spans are empty; spans stopped by the budget or a border are shorter.
    assert 0.035 < share_empty < 0.075
    assert 2.4 < lengths.mean() < 3.1


def hidden_lengths(out, numbers, tokens, segments):
    """How many tokens each mask stands for, read off its neighbours where those are not masks."""
    lengths = []
    for row in range(out.shape[0]):
        for number in (5, 6):
            place = {t: i for i, t in enumerate(tokens[row][segments[row] == number].tolist())}
            got = out[row][numbers[row] == number].tolist()
            for before, here, after in zip(got, got[1:], got[2:], strict=False):
                if here == MASK and MASK not in (before, after):
                    lengths.append(place[after] - place[before] - 1)
    return np.asarray(lengths)


def test_sentences_are_permuted_whole(rows):
    tokens, segments, sentences = rows
    out, numbers = run(rows, **CLEAN, permute_sentences=True)
    np.testing.assert_array_equal(numbers, segments)
    orders = set()
    for row in range(300):
        for number in (5, 6):
            inside = segments[row] == number
            original, got = tokens[row][inside], out[row][inside]
            assert got[0] == BOS
            assert got[-1] == EOS
            parts = [
                tuple(original[1:-1][sentences[row][inside][1:-1] == s].tolist())
                for s in dict.fromkeys(sentences[row][inside][1:-1].tolist())
            ]
            order, rest = [], tuple(got[1:-1].tolist())
            while rest:
                (index,) = [i for i, part in enumerate(parts) if rest[: len(part)] == part]
                order.append(index)
                rest = rest[len(parts[index]) :]
            assert sorted(order) == list(range(len(parts)))
            orders.add(tuple(order))
    assert len(orders) > 100


def test_documents_rotate_around_a_uniform_point(rows):
    tokens, segments, _ = rows
    out, numbers = run(rows, **CLEAN, rotate=1.0)
    np.testing.assert_array_equal(numbers, segments)
    amounts = []
    for row in range(2048):
        body, got = tokens[row, 1:29], out[row, 1:29]
        (amount,) = np.nonzero(body == got[0])[0]
        np.testing.assert_array_equal(np.roll(body, -amount), got)
        amounts.append(amount)
    np.testing.assert_array_equal(out[:, [0, 29, 30, 55]], tokens[:, [0, 29, 30, 55]])
    counts = np.bincount(amounts, minlength=28)
    chi_square = ((counts - 2048 / 28) ** 2 / (2048 / 28)).sum()
    assert abs(chi_square - 27) < 3 * np.sqrt(2 * 27)
    half, _ = run(rows, **CLEAN, rotate=0.5)
    turned = (half[:, 1:29] != tokens[:, 1:29]).any(axis=1).sum()
    assert near(turned, 2048, 0.5 * (1 - 1 / 28))


def test_everything_at_once_keeps_documents_apart(rows):
    config = dict.fromkeys(("infill", "mask", "delete", "replace", "insert"), 0.1)
    out, numbers = run(rows, length=90, permute_sentences=True, rotate=0.5, **config)
    for row in range(50):
        for number in (5, 6):
            inside = out[row][numbers[row] == number]
            assert inside[0] == BOS
            assert inside[-1] == EOS
        assert (np.diff(np.nonzero(numbers[row])[0]) == 1).all()
    short, short_numbers = run(rows, length=20, permute_sentences=True, rotate=0.5, **config)
    np.testing.assert_array_equal(short, out[:, :20])
    np.testing.assert_array_equal(short_numbers, numbers[:, :20])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"infill": 1.5}, "noise.infill=1.5"),
        ({"delete": -0.1}, "noise.delete=-0.1"),
        ({"infill_mean": 0.0}, "noise.infill_mean=0.0"),
        ({"mask": 0.5, "delete": 0.4, "replace": 0.2}, "sum to more than 1"),
    ],
)
def test_impossible_configs_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        DenoiseConfig(**config)


def test_permutation_needs_sentences():
    with pytest.raises(ValueError, match="needs sentences_BT"):
        denoise(
            jax.random.key(0),
            jnp.zeros((1, 8), jnp.int32),
            DenoiseConfig(permute_sentences=True),
            vocab_size=VOCAB,
            mask_id=MASK,
        )
