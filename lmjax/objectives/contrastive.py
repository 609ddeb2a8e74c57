"""Contrastive learning: a text's vector should be nearer to its partner's than to any other of the batch.

    loss_i = - log  exp(sim(q_i, k_i) / tau) / sum over j of exp(sim(q_i, k_j) / tau)

(InfoNCE, van den Oord et al. 2018), k_j the partners of all queries of the batch, on all devices, and the
hard negatives. Pairs are given in the data, or made of single texts: the same text under two dropout
masks (SimCSE, Gao et al. 2021) or two random crops of it (Contriever, Izacard et al. 2022).

Axes: M texts of an example, S positions of a text, N texts in a row, C rows of texts.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.corruption import random_crops
from lmjax.data.config import DataConfig
from lmjax.layout import documents
from lmjax.losses import info_nce, retrieval_accuracy
from lmjax.models.config import ModelConfig
from lmjax.models.layers import parameter, split_key
from lmjax.models.parameters import Params
from lmjax.models.routing import Routing, by_row, joined
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import extra_of, model_of, with_extras
from lmjax.objectives.parts.example_texts import apart, stream_apart
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.token_objective import token_weights
from lmjax.schedules.ramp import Ramp, Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream

LOWEST_TEMPERATURE = 0.01
"""The lowest learned temperature (CLIP, Radford et al. 2021, section 2.5: scores are multiplied by at most 100)."""


def temperature_of(log_scale: jax.Array) -> jax.Array:
    """Returns a learned temperature, float32 and at least 0.01, of the parameter ``-log(temperature)``."""
    bounded = jnp.minimum(log_scale, -math.log(LOWEST_TEMPERATURE))
    # The bound is in the value only: a gradient of 0 would keep the parameter beyond it for ever.
    return jnp.exp(-(log_scale + jax.lax.stop_gradient(bounded - log_scale)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """InfoNCE on the vectors of texts. The term `accuracy` is the share of texts whose partner is nearest."""

    pairs: Literal["crops", "dropout", "given"] = "crops"
    """Two crops of each text, each text twice under different dropout, or the texts named in data.members: query, key
    and negatives."""
    negatives: int = 0
    """Number of hard negatives in each given example, after query and key."""
    share_negatives: bool = True
    """Whether a hard negative is one for every query of the batch, or for its own only."""
    temperature: Scalar = 0.05
    """What similarities are divided by, and the initial value of a learned temperature."""
    learn_temperature: bool = False
    """Whether the temperature is a parameter, kept as -log and above 0.01 (CLIP)."""
    symmetric: bool = False
    """Whether to average with the loss of finding the query for each key."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """A text's vector: the mean of its states, that of its first token (data.add_bos), or that of its last."""
    normalize: bool = True
    """Whether to compare by cosine similarity instead of dot products."""
    separate_encoders: bool = False
    """Whether keys and negatives have an encoder of their own."""
    causal: bool = False
    """Whether a token sees only the tokens before it, as in models that were trained so."""
    max_documents: int = 4
    """The largest number of texts of a packed row that take part, from the first on."""
    min_crop: float = 0.05
    """The least share of a text in a crop."""
    max_crop: float = 0.5
    """The largest share of a text in a crop, one half at most."""

    def __post_init__(self):
        super().__post_init__()
        if not all(value > 0 for value in extremes(self.temperature)):
            raise ValueError(f"objective.temperature={self.temperature}: must be above 0")
        if self.learn_temperature and (isinstance(self.temperature, Ramp) or self.temperature < LOWEST_TEMPERATURE):
            raise ValueError(
                f"objective.temperature={self.temperature}: a learned one begins with a number of at least "
                f"{LOWEST_TEMPERATURE}; or set objective.learn_temperature to False"
            )
        if self.negatives < 0 or self.max_documents < 1:
            raise ValueError(
                f"objective.negatives={self.negatives} must be at least 0, and objective.max_documents="
                f"{self.max_documents} at least 1"
            )
        if not 0 < self.min_crop <= self.max_crop <= 0.5:
            raise ValueError(
                f"objective.min_crop={self.min_crop} and objective.max_crop={self.max_crop}: must rise, above 0 and up "
                f"to one half, so that two crops fit in the room of their text"
            )
        for name in ("negatives", "separate_encoders"):
            if self.pairs != "given" and getattr(self, name):
                raise ValueError(
                    f"objective.{name}={getattr(self, name)} with objective.pairs={self.pairs!r}: only given examples "
                    f"have texts of several kinds: use pairs=given, or leave it out"
                )
        if self.pooling == "cls" and (self.pairs == "crops" or self.causal):
            raise ValueError(
                "objective.pooling='cls': the first token of a crop is any token, and that of a causal model has seen "
                "nothing: use mean or last"
            )

    @property
    def traits(self) -> Traits:
        """Given examples hold query, key and negatives; every text is compared with all others of the batch."""
        return Traits(
            attention="causal" if self.causal else "bidirectional",
            num_members=2 + self.negatives if self.pairs == "given" else 1,
            encodings=1 if self.pairs == "given" else 2,
            couples_examples=True,
            measures=frozenset({"accuracy"}),
            instead_of_text="it compares texts: use `lmjax embed`, or `lmjax evaluate RUN --pairs FILE`",
        )

    @property
    def num_texts(self) -> int:
        """M, the number of texts of an example that are compared with each other."""
        return max(self.traits.num_members, 2)

    def row_length(self, sequence_length: int) -> int:
        """Returns T tokens for each text of an example."""
        return self.traits.num_members * sequence_length

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a model without dropout where it is all that tells a text from itself, and rows too short to crop."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if self.pairs == "dropout" and not (model.dropout or model.attention_dropout):
            raise ValueError(
                "model.dropout=0.0: with objective.pairs='dropout' a text's two vectors differ by dropout alone: set "
                "it to 0.1, or use other pairs"
            )
        if self.pairs == "crops" and sequence_length < 2:
            raise ValueError(f"train.sequence_length={sequence_length}: a crop is half of it: use at least 2")

    def check_data(self, data: DataConfig) -> None:
        """Refuses examples of another number of texts, and texts that need not begin with a marker for it to stand."""
        super().check_data(data)
        if self.pooling == "cls" and not (data.add_bos and data.packing in ("examples", "best_fit")):
            raise ValueError(
                f"objective.pooling='cls' takes the first token of each text for its vector: set data.add_bos to True "
                f"(here {data.add_bos}) and data.packing to examples or best_fit (here {data.packing})"
            )

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the encoder, with ``key_encoder`` and ``log_scale`` (of a learned temperature) as extras."""
        queries = Transformer(model, rngs=rngs)
        keys = Transformer(model, rngs=rngs) if self.separate_encoders else None
        log_scale = None
        if self.learn_temperature:
            start = -math.log(float(self.temperature))  # type: ignore[arg-type]
            log_scale = parameter(jnp.asarray(start, jnp.float32), (), "scale")
        return with_extras(queries, key_encoder=keys, log_scale=log_scale)

    def adopt(self, fresh: Params, *, model: Params, saved: Params) -> Params:
        """Returns the extras: an encoder of keys begins as the other run's model, unless that run had one."""
        own = super().adopt(fresh, model=model, saved=saved)
        return own | {"key_encoder": model} if "key_encoder" in fresh.keys() - saved.keys() else own

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Lays the M texts of an example side by side, in stretches of equal length.

        ``extras["example"]`` numbers the examples of a row from 1, and ``extras["share"]`` is how much of
        its text's vector each position gives.
        """
        tokens_BMS, example_BMS = self._texts(key, rows, vocabulary.pad_id or 0)
        num_rows, num_texts, length = tokens_BMS.shape
        text_1M1 = jnp.arange(num_texts, dtype=jnp.int32)[None, :, None]
        segments_BMS = jnp.where(example_BMS > 0, example_BMS + text_1M1 * (length + 1), 0)
        tokens_BT, example_BT, segments_BT = (
            array_BMS.reshape(num_rows, -1) for array_BMS in (tokens_BMS, example_BMS, segments_BMS)
        )
        number_11N = jnp.arange(1, self._slots + 1, dtype=jnp.int32)[None, None, :]
        weights_BN = jnp.any(example_BMS[:, 0, :, None] == number_11N, axis=1).astype(jnp.float32)
        return Batch(
            inputs=make_stream(tokens_BT, segments_BT, self.traits.attention),
            targets_BP=jnp.zeros((num_rows, 0), jnp.int32),
            weights={"contrastive": weights_BN, "accuracy": weights_BN},
            extras={"example": example_BT, "share": self._shares(segments_BT)},
        )

    @property
    def _slots(self) -> int:
        """N, the number of examples that a row has room for."""
        return 1 if self.pairs == "given" else self.max_documents

    def _texts(self, key: jax.Array, rows: Rows, pad_id: int) -> tuple[jax.Array, jax.Array]:
        """Returns the texts and the number of the example that each position belongs to, both int32 [B, M, S]."""
        tokens_BT = rows.tokens_BT
        segments_BT = jnp.ones_like(tokens_BT) if rows.segments_BT is None else rows.segments_BT
        # Rows that only fill up a batch have no weight anywhere.
        segments_BT = jnp.where(jnp.any(token_weights(rows) > 0, axis=1, keepdims=True), segments_BT, 0)
        if self.pairs == "crops":
            crops = random_crops(
                key, tokens_BT, segments_BT=segments_BT, min_share=self.min_crop, max_share=self.max_crop, pad_id=pad_id
            )
            return crops.tokens_B2S, crops.segments_B2S
        if self.pairs == "dropout":
            return jnp.stack([tokens_BT, tokens_BT], axis=1), jnp.stack([segments_BT, segments_BT], axis=1)
        shape = (tokens_BT.shape[0], self.traits.num_members, -1)
        return tokens_BT.reshape(shape), jnp.minimum(segments_BT, 1).reshape(shape)

    def _shares(self, segments_BT: jax.Array) -> jax.Array:
        """Returns the weight of each position in its text's vector, float32 [B, T]. The weights of a text sum to 1."""
        where = documents(segments_BT, segments_BT.shape)
        if self.pooling == "mean":
            return where.real_BT / where.length
        return (where.first if self.pooling == "cls" else where.last).astype(jnp.float32)

    def terms(self, model: nnx.Module, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns InfoNCE over the examples of the batch, and the share of queries that find their key (a measure)."""
        (queries, keys, *negatives), routing = self.vectors(model, batch, key)
        weights = {name: weights_BN.reshape(-1) for name, weights_BN in batch.weights.items()}
        valid = weights["contrastive"] > 0
        competitors: dict[str, Any] = {"valid": valid}
        if negatives and self.share_negatives:
            competitors["hard_negatives"] = jnp.concatenate(negatives)
            competitors["valid_negatives"] = jnp.concatenate([valid] * self.negatives)
        elif negatives:
            competitors["hard_negatives"] = jnp.stack(negatives, axis=1)
        log_scale = extra_of(model, "log_scale")
        temperature = current(self.temperature) if log_scale is None else temperature_of(log_scale[...])
        losses = info_nce(queries, keys, temperature=temperature, symmetric=self.symmetric, **competitors)
        sums = {
            "contrastive": jnp.sum(weights["contrastive"] * losses),
            "accuracy": jnp.sum(weights["accuracy"] * retrieval_accuracy(queries, keys, **competitors)),
        }
        return Terms(sums, routing)

    def vectors(self, model: nnx.Module, batch: Batch, key: jax.Array | None) -> tuple[list[jax.Array], Routing | None]:
        """Returns a list of vectors and the expert statistics of each row.

        The list holds the vectors of the queries, of the keys, of the first negatives, and so on, each float32
        [B N, D] with zeros where there is no text.
        """
        query_key, key_key = split_key(key, 2)
        queries, keys = model_of(model), extra_of(model, "key_encoder")
        parts: list[tuple[Transformer, slice, jax.Array | None]] = [(queries, slice(None), query_key)]
        if keys is not None:
            parts = [(queries, slice(0, 1), query_key), (keys, slice(1, None), key_key)]
        vectors: list[jax.Array] = []
        routings = []
        for part in parts:
            own, routing = self._encode(batch, *part)
            vectors += own
            routings.append(routing)
        return vectors, joined(routings)

    def _encode(
        self, batch: Batch, encoder: Transformer, texts: slice, key: jax.Array | None
    ) -> tuple[list[jax.Array], Routing | None]:
        num_rows = batch.inputs.tokens_BT.shape[0]
        stream: Stream = stream_apart(batch.inputs, self.num_texts, texts)
        hidden = encoder(stream, key=key)
        example_CS, share_CS = (apart(batch.extras[n], self.num_texts, texts) for n in ("example", "share"))
        number_11N = jnp.arange(1, self._slots + 1, dtype=jnp.int32)[None, None, :]
        share_CSN = jnp.where(example_CS[:, :, None] == number_11N, share_CS[:, :, None], 0.0)
        vector_CND = self._pooled(share_CSN, hidden.states_BTD)
        vector_BMND = vector_CND.reshape(num_rows, -1, *vector_CND.shape[1:])
        vectors = [vector_BMND[:, m].reshape(-1, vector_BMND.shape[-1]) for m in range(vector_BMND.shape[1])]
        return vectors, by_row(hidden.routing, num_rows)

    def _pooled(self, share_CSN: jax.Array, states_CSD: jax.Array) -> jax.Array:
        """Returns the vectors [C, N, D] of N texts in each row, by the share of each position in each of them."""
        vector_CND = jnp.einsum("csn,csd->cnd", share_CSN, states_CSD.astype(jnp.float32))
        if not self.normalize:
            return vector_CND
        # Empty slots are zero vectors, at which a norm has no gradient.
        squares_CN1 = jnp.sum(jnp.square(vector_CND), axis=-1, keepdims=True)
        return vector_CND * jax.lax.rsqrt(jnp.maximum(squares_CN1, 1e-12))

    def embed(self, model: nnx.Module, rows: Rows, *, as_key: bool = False) -> jax.Array:
        """Returns the vectors of texts, float32 [B, D].

        Args:
          model: the module of ``build``.
          rows: one text a row, its segments 1 on the text and 0 on padding.
          as_key: read the texts with the encoder of keys, where it is another one.
        """
        assert rows.segments_BT is not None
        encoder = (extra_of(model, "key_encoder") if as_key else None) or model_of(model)
        hidden = encoder(make_stream(rows.tokens_BT, rows.segments_BT, self.traits.attention))
        return self._pooled(self._shares(rows.segments_BT)[:, :, None], hidden.states_BTD)[:, 0]
