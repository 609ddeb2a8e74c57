"""Small models of several kinds, prompts of different lengths, and the logits of whole texts to compare with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import tiny

from lmjax import masks
from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate
from lmjax.models.execution import ExecutionConfig
from lmjax.models.recurrent import Mamba2Config, Rwkv6Config
from lmjax.types import Stream

GREEDY = SamplingConfig(temperature=0.0)
NO_EOS = dataclasses.replace(tiny.VOCABULARY, eos_id=None)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10], [11], [5, 4, 3, 2]]
NEW = 6
MODELS = {
    "rope_gqa": dataclasses.replace(tiny.MODEL, num_heads=4, num_kv_heads=2, head_width=8, tie_embeddings=False),
    "learned": dataclasses.replace(tiny.MODEL, positions="learned", max_length=13, tie_embeddings=False, bias=True),
    "alibi_windows": dataclasses.replace(
        tiny.MODEL, positions="alibi", windows=(None, 3), num_layers=3, tie_embeddings=False, logit_softcap=20.0
    ),
}


T5 = dataclasses.replace(
    tiny.MODEL,
    encoder_layers=1,
    positions="relative",
    relative_buckets=8,
    relative_max_distance=12,
    relative_past_only=True,
    tie_embeddings=False,
)
MODELS["encoder_decoder"] = T5
MODELS["hybrid"] = dataclasses.replace(
    tiny.MODEL,
    mixers=("mamba2", "attention", "rwkv6"),
    num_layers=3,
    mamba2=Mamba2Config(head_width=8, state_width=4),
    rwkv6=Rwkv6Config(head_width=8, mix_rank=4, decay_rank=4),
    execution=ExecutionConfig(mamba2_chunk=3, rwkv6_chunk=3),
    tie_embeddings=False,
)
START = 7


@functools.cache
def built(name):
    spec = tiny.model_spec(MODELS[name])
    return spec, tiny.random_params(spec)


def sample(name, prompts=PROMPTS, *, sampling=GREEDY, vocabulary=NO_EOS, new=NEW, params=None, **options):
    spec, random = built(name)
    return generate(
        spec,
        random if params is None else params,
        prompts,
        vocabulary=vocabulary,
        max_new_tokens=new,
        sampling=sampling,
        **options,
    )


@functools.cache
def last_logits(name):
    """Logits that follow a text, by a forward pass over all of it; the row is padded to one length for all."""
    spec, _ = built(name)

    @jax.jit
    def logits(params, tokens_1T, length, prefix_length):
        mask = masks.prefix(tokens_1T.shape[1], prefix_length[None])
        positions_1T = jnp.arange(tokens_1T.shape[1])[None, :]
        mask = masks.IntervalMask(start_BT=mask.start_BT, end_BT=jnp.minimum(mask.end_BT, length))
        model = spec.bind(params)
        hidden = model(Stream(tokens_BT=tokens_1T, positions_BT=positions_1T, mask=mask)).states_BTD
        return model.logits(hidden[0, length - 1])

    return logits
