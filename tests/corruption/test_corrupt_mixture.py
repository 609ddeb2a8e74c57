"""UL2: the seven denoisers' counts, their weights, mode tokens, and S as a prefix language model."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.corruption import UL2_DENOISERS, Denoiser, span_counts, ul2, ul2_joined

SENTINELS = tuple(range(5000, 4800, -1))
MODES = {"R": 4001, "S": 4002, "X": 4003}
settings = {"sentinel_ids": SENTINELS, "mode_ids": MODES, "pad_id": 6000}
LENGTH = 128


def restore(inputs, targets):
    spans, current = {}, None
    for token in targets:
        current = token if token in SENTINELS else current
        spans.setdefault(current, []).append(token)
    return [t for token in inputs for t in (spans[token][1:] if token in SENTINELS else [token])]


@pytest.fixture(scope="module")
def mixed():
    tokens = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32)[None, :], (1400, LENGTH))
    return jax.jit(functools.partial(ul2, **settings))(jax.random.key(0), tokens)


def test_the_seven_settings_are_the_papers():
    assert [(d.mode, d.density, d.mean_span) for d in UL2_DENOISERS] == [
        ("R", 0.15, 3.0),
        ("R", 0.15, 8.0),
        ("S", 0.25, math.inf),
        ("X", 0.5, 3.0),
        ("X", 0.5, 8.0),
        ("X", 0.15, 64.0),
        ("X", 0.5, 64.0),
    ]


def test_every_row_is_one_of_the_denoisers_and_comes_back(mixed):
    kinds = {}
    for denoiser in UL2_DENOISERS:
        noise, spans = span_counts(LENGTH, denoiser.density, denoiser.mean_span)
        kinds.setdefault((MODES[denoiser.mode], noise, spans), []).append(denoiser)
    assert len(kinds) == 7
    seen = dict.fromkeys(kinds, 0)
    inputs, targets = (
        [t[s == 1].tolist() for t, s in zip(np.asarray(r.tokens_BT), np.asarray(r.segments_BT), strict=True)]
        for r in mixed
    )
    for got, target in zip(inputs, targets, strict=True):
        mode, body = got[0], got[1:]
        sentinels = sum(token in SENTINELS for token in body)
        noise = len(target) - sum(token in SENTINELS for token in target)
        if mode == MODES["S"]:
            assert sentinels == 0
            assert body + target == list(range(LENGTH))
            sentinels = 1
        else:
            assert restore(body, target) == list(range(LENGTH))
        seen[mode, noise, sentinels] += 1
    assert len(seen) == len(kinds)
    for kind, count in seen.items():
        share = len(kinds[kind]) / 7
        assert abs(count - 1400 * share) < 3 * np.sqrt(1400 * share * (1 - share))


def test_packed_documents_draw_their_own_denoisers():
    segments = jnp.asarray([[1] * 40 + [2] * 50 + [3] * 30 + [0] * 8] * 16, jnp.int32)
    tokens = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32)[None, :], segments.shape)
    rows, prefix_end = jax.jit(functools.partial(ul2_joined, **settings, eos_id=4500, length=260))(
        jax.random.key(1), tokens, segments_BT=segments
    )
    differing = 0
    for row in range(16):
        modes = []
        for number in (1, 2, 3):
            where = np.asarray(rows.segments_BT)[row] == number
            got = np.asarray(rows.tokens_BT)[row][where].tolist()
            weights = np.asarray(rows.weights_BT)[row][where]
            split = int((weights == 0).sum())
            assert set(np.asarray(prefix_end)[row][where].tolist()) == {np.nonzero(where)[0][0] + split}
            modes.append(got[0])
            inputs, targets = got[1:split], got[split:]
            assert targets.pop() == 4500
            whole = np.nonzero(np.asarray(segments)[row] == number)[0].tolist()
            assert (inputs + targets if got[0] == MODES["S"] else restore(inputs, targets)) == whole
        differing += len(set(modes)) > 1
    assert differing > 4


def test_weights_decide():
    denoisers = (Denoiser(mode="R", density=0.15, mean_span=3.0, weight=0.0), Denoiser(mode="S", density=0.5))
    tokens = jnp.zeros((64, 16), jnp.int32)
    inputs, _ = ul2(jax.random.key(2), tokens, **settings, denoisers=denoisers)
    assert (inputs.tokens_BT[:, 0] == MODES["S"]).all()


@pytest.mark.parametrize("function", [ul2, ul2_joined])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentinel_ids": SENTINELS[:5]}, "has only 5"),
        ({"mode_ids": {"R": 1, "S": 2}}, "no token for mode 'X'"),
        ({"denoisers": ()}, "no weight"),
    ],
)
def test_impossible_settings_are_refused_while_tracing(function, change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            functools.partial(function, **(settings | change)), jax.random.key(0), jnp.zeros((2, LENGTH), jnp.int32)
        )


def test_impossible_denoisers_are_refused():
    with pytest.raises(ValueError, match=r"density=1\.5"):
        Denoiser(mode="R", density=1.5)
    with pytest.raises(ValueError, match="weight=-1"):
        Denoiser(mode="R", density=0.5, weight=-1.0)
