"""The configuration of the transformer. All models (GPT-2, Llama, BERT, ...) are values of it."""

import dataclasses
import math
from typing import Literal

from lmjax.models.config_checks import check_model
from lmjax.models.execution import ExecutionConfig
from lmjax.models.latent import LatentConfig
from lmjax.models.recurrent import RECURRENT, Mamba2Config, Mixer, Rwkv6Config
from lmjax.models.rope import RopeScaling
from lmjax.models.routing import ExpertsConfig

Activation = Literal[
    "gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "swiglu_clamped", "geglu", "geglu_exact", "reglu"
]
Positions = Literal["rope", "learned", "sinusoidal", "alibi", "relative", "none"]
Residual = Literal["pre", "post", "sandwich", "output", "parallel", "parallel_two_norms"]

GATED: tuple[Activation, ...] = ("swiglu", "swiglu_clamped", "geglu", "geglu_exact", "reglu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a :class:`lmjax.models.transformer.Transformer`."""

    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size, rounded up to a multiple of `pad_vocab_to`."""
    pad_vocab_to: int = 128
    """Multiple to round the vocabulary up to, so that it splits evenly over devices and tiles."""
    width: int = 256
    """Model width D."""
    num_layers: int = 4
    """Number of blocks L; of the decoder, where there is an encoder."""
    encoder_layers: int = 0
    """Blocks of the encoder of an encoder-decoder; 0 is a single stack."""
    encoder_width: int | None = None
    """Model width of the encoder; `width` when unset."""
    encoder_heads: int | None = None
    """Query heads of the encoder (and its key-value heads); those of the decoder when unset."""
    encoder_feedforward_width: int | None = None
    """Hidden width of the encoder; by the decoder's rule when unset."""
    share_encoder_embedding: bool = True
    """One token table for encoder and decoder."""
    num_heads: int = 4
    """Query heads N."""
    num_kv_heads: int | None = None
    """Key-value heads K: equal to `num_heads` when unset (MHA), fewer is GQA, 1 is MQA."""
    head_width: int | None = None
    """Width H of a head; `width / num_heads` when unset."""
    feedforward_width: int | None = None
    """Hidden width F; when unset 4 x width, or for gated activations 8/3 x width rounded up to 64; 0 leaves the
    feed-forward out (Mamba-2)."""
    experts: ExpertsConfig = ExpertsConfig()
    """Mixture of experts in place of some layers' feed-forward."""
    max_length: int = 1024
    """Longest sequence learned positions have a row for; other positions ignore it."""
    positions: Positions = "rope"
    """How positions enter: rotary, learned or sinusoidal embeddings, ALiBi, T5's relative buckets, or none."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_fraction: float = 1.0
    """Share of a head's dimensions that turn; the others carry no position."""
    rope_scaling: RopeScaling = RopeScaling()
    """Stretching of the rotary frequencies over a longer context."""
    rope_layers: tuple[bool, ...] = (True,)
    """Whether successive layers turn queries and keys, repeated to the depth (SmolLM3: each fourth does not)."""
    local_rope_theta: float | None = None
    """Base in layers with a window, which are then not stretched; `rope_theta`, stretched, when unset."""
    relative_buckets: int = 32
    """Buckets of relative positions."""
    relative_max_distance: int = 128
    """Distance from which on all share the last bucket."""
    relative_per_layer: bool = False
    """A table of relative positions for each layer (umT5); else one that all layers of a stack share."""
    relative_past_only: bool = False
    """All buckets for the past, as in T5's decoder; else half of them for the future."""
    residual: Residual = "pre"
    """Where norms stand: x + f(n(x)) (`pre`), n(x + f(x)) (`post`: BERT), x + n(f(n(x))) (`sandwich`: Gemma 2),
    x + n(f(x)) (`output`: OLMo 2), or attention and feed-forward side by side on one norm (`parallel`: GPT-J) or on
    one each (`parallel_two_norms`: GPT-NeoX)."""
    activation: Activation = "swiglu"
    """Feed-forward non-linearity; those with `glu` in their name are gated: `geglu_exact` is without tanh,
    `swiglu_clamped` that of gpt-oss, whose gate and other half are kept within 7."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation of the sublayers and before the head."""
    norm_epsilon: float = 1e-5
    """Added to the variance."""
    norm_bias: bool | None = None
    """Bias of layer norms; `bias` when unset."""
    norm_scale: bool = True
    """Norms have learned scales; those of OLMo 1 have not."""
    norm_scale_offset: bool = False
    """Scales are kept as their difference from 1 (Gemma)."""
    final_norm: bool = True
    """Norm after the last block; BERT, being post-norm, has none."""
    embedding_norm: bool = False
    """Norm on the sum of the embeddings (BERT, ModernBERT, BART)."""
    skip_first_norm: bool = False
    """No norm before the first attention, for models with a norm on the embeddings (ModernBERT)."""
    bias: bool = False
    """Bias vectors in projections, and in layer norms."""
    qkv_bias: bool | None = None
    """Bias of queries, keys and values; `bias` when unset."""
    out_bias: bool | None = None
    """Bias of the projection out of attention; `bias` when unset."""
    head_bias: bool = False
    """A bias on the logits."""
    head_transform: bool = False
    """A dense layer, the activation and a norm before the output map (BERT)."""
    tie_embeddings: bool = True
    """Whether the head is the transposed embedding table."""
    embedding_width: int | None = None
    """Width of the token table, mapped to the model's by a matrix (ALBERT, ELECTRA); `width` when unset."""
    scale_embeddings: bool = False
    """Token embeddings are multiplied with sqrt(width) (Gemma)."""
    embedding_scale: float = 1.0
    """Factor of the token embeddings (Granite); beside `scale_embeddings`, if that is set."""
    sublayer_scale: float = 1.0
    """Factor of what each sublayer adds to the residual stream (Granite)."""
    num_types: int = 0
    """Rows of the segment embedding (BERT: 2); 0 is none."""
    pooler: bool = False
    """A dense layer with tanh on the state of a text's first token (BERT)."""
    pair_head: bool = False
    """Two classes of a text pair on the pooled state (BERT's next sentence, ALBERT's sentence order)."""
    share_layers: bool = False
    """All blocks are one and the same (ALBERT)."""
    qk_norm: Literal["none", "head", "projection"] = "none"
    """RMS norm of queries and keys with learned scales: of each head (Qwen 3), or of all heads together (OLMo 2)."""
    qkv_clip: float | None = None
    """Queries, keys and values are clipped to at most this size (OLMo 1, DBRX)."""
    latent: LatentConfig = LatentConfig()
    """Multi-head latent attention instead of keys and values of each head's own (DeepSeek-V2)."""
    attention_scale: float | None = None
    """Factor of the attention logits; 1 / sqrt(head width) when unset, 1 in T5."""
    attention_sinks: bool = False
    """A learned logit of each head that takes a share of its attention and has no value (gpt-oss)."""
    attention_softcap: float | None = None
    """Attention logits become `c tanh(x / c)`."""
    logit_softcap: float | None = None
    """Output logits become `c tanh(x / c)`."""
    logit_scale: float = 1.0
    """Factor of the states the output map is applied to (T5 with tied embeddings: width^-0.5)."""
    dropout: float = 0.0
    """Dropout rate on the embedding and on each sublayer's output."""
    attention_dropout: float = 0.0
    """Dropout rate on attention probabilities."""
    windows: tuple[int | None, ...] = (None,)
    """Sliding windows of successive layers, repeated to the depth; None sees everything its mask allows."""
    mixers: tuple[Mixer, ...] = ("attention",)
    """What mixes the positions in successive layers, repeated to the depth: attention, or a recurrence (causal only);
    several make a hybrid (Jamba: Lieber et al. 2024)."""
    mamba2: Mamba2Config = Mamba2Config()
    """Sizes of Mamba-2 layers."""
    rwkv6: Rwkv6Config = Rwkv6Config()
    """Sizes of RWKV-6 layers."""
    init_std: float | None = 0.02
    """Standard deviation of initial weights; None takes 1/sqrt(fan-in)."""
    embedding_init_std: float | None = None
    """Standard deviation of initial embeddings; when unset `init_std`, or 1/sqrt(width)."""
    width_base: int | None = None
    """Width the initial standard deviations and the learning rate were chosen at: widths then share one optimum (muP,
    Yang et al. 2022, table 8); None scales nothing."""
    residual_init: Literal["scaled", "plain"] = "scaled"
    """Whether initial projections into the residual stream are divided by sqrt(2 L) (GPT-2, section 2.3)."""
    execution: ExecutionConfig = ExecutionConfig()
    """How the model is computed; no field of it changes what the model computes."""

    def __post_init__(self):
        check_model(self)

    @property
    def dtype(self) -> str:
        """The dtype of the arithmetic in the forward and backward pass, see :class:`ExecutionConfig`."""
        return self.execution.dtype

    @property
    def kv_heads(self) -> int:
        """The number of key-value heads, K."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def key_width(self) -> int:
        """The width of a head's queries and keys, H (without the rotated part of latent attention)."""
        return self.width // self.num_heads if self.head_width is None else self.head_width

    @property
    def attention_width(self) -> int:
        """The number of dimensions over which the product of a query and a key is summed."""
        return self.key_width + (self.latent.rope_width if self.latent.rank else 0)

    @property
    def value_width(self) -> int:
        """The width of a head's values."""
        value_width = self.latent.value_width if self.latent.rank else None
        return self.key_width if value_width is None else value_width

    @property
    def rotated_width(self) -> int:
        """The number of a head's dimensions that rotary positions turn."""
        if self.latent.rank:
            return self.latent.rope_width
        return int(self.key_width * self.rope_fraction)

    @property
    def table_width(self) -> int:
        """The width of the token table, E."""
        return self.width if self.embedding_width is None else self.embedding_width

    @property
    def period(self) -> int:
        """The number of layers after which the pattern of layers repeats."""
        return math.lcm(len(self.windows), len(self.rope_layers), len(self.mixers), self.experts.every)

    @property
    def leading_layers(self) -> int:
        """The number of first layers that are not part of the repeating pattern, because they have no experts."""
        return min(self.experts.first_dense, self.num_layers) if self.experts.number else 0

    def has_experts(self, layer: int) -> bool:
        """Returns whether a layer's feed-forward is a mixture of experts; layers count from 0."""
        experts = self.experts
        return experts.number > 0 and layer >= experts.first_dense and (layer + 1) % experts.every == 0

    @property
    def width_ratio(self) -> float:
        """The width of the model divided by ``width_base``; 1 if there is no ``width_base``."""
        return 1.0 if self.width_base is None else self.width / self.width_base

    @property
    def base_std(self) -> float:
        """The standard deviation of initial weights that does not depend on ``width_ratio``, as of embeddings."""
        return (self.width_base or self.width) ** -0.5 if self.init_std is None else self.init_std

    @property
    def matrix_std(self) -> float | None:
        """The standard deviation of initial matrices between hidden layers; None means 1/sqrt(fan-in)."""
        return None if self.init_std is None else self.init_std / math.sqrt(self.width_ratio)

    @property
    def logit_factor(self) -> float | None:
        """The factor of the attention logits; None means 1/sqrt(attention_width)."""
        if self.attention_scale is None and self.width_base is not None:
            return 1 / self.attention_width
        return self.attention_scale

    @property
    def recurrent(self) -> tuple[Mixer, ...]:
        """The recurrent mixers that the layers use; these read from left to right only."""
        return tuple(dict.fromkeys(mixer for mixer in self.mixers if mixer in RECURRENT))

    @property
    def encoder(self) -> "ModelConfig":
        """The configuration of the encoder's stack, as if it were a model of its own."""
        heads = self.num_heads if self.encoder_heads is None else self.encoder_heads
        return dataclasses.replace(
            self,
            num_layers=self.encoder_layers,
            encoder_layers=0,
            encoder_width=None,
            encoder_heads=None,
            encoder_feedforward_width=None,
            width=self.width if self.encoder_width is None else self.encoder_width,
            num_heads=heads,
            num_kv_heads=self.num_kv_heads if self.encoder_heads is None else heads,
            feedforward_width=(
                self.encoder_feedforward_width
                if self.encoder_feedforward_width is not None or self.encoder_width is not None
                else self.feedforward_width
            ),
            relative_past_only=False,
        )

    @property
    def hidden_width(self) -> int:
        """The hidden width of the feed-forward, F."""
        if self.feedforward_width is not None:
            return self.feedforward_width
        return -(-8 * self.width // (3 * 64)) * 64 if self.activation in GATED else 4 * self.width

    def with_vocabulary(self, size: int) -> "ModelConfig":
        """Returns this configuration with the vocabulary of a tokenizer of ``size`` ids.

        Raises:
          ValueError: ``vocab_size`` is set and is too small for the tokenizer.
        """
        if self.vocab_size == 0:
            return dataclasses.replace(self, vocab_size=-(-size // self.pad_vocab_to) * self.pad_vocab_to)
        if self.vocab_size < size:
            raise ValueError(
                f"model.vocab_size={self.vocab_size} is smaller than the tokenizer's {size} ids: "
                f"set it to at least {size}, or to 0 to follow the tokenizer"
            )
        return self
