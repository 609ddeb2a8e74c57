"""The one configuration of the one transformer; what tells GPT-2 from Llama from BERT is here."""

import dataclasses
from typing import Literal

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "swiglu", "geglu"]
Positions = Literal["rope", "learned", "sinusoidal", "alibi", "none"]
Remat = Literal["none", "dots", "full"]

GATED: tuple[Activation, ...] = ("swiglu", "geglu")


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
    """Number of blocks L."""
    num_heads: int = 4
    """Query heads N."""
    num_kv_heads: int | None = None
    """Key-value heads K: equal to `num_heads` when unset (MHA), fewer is GQA, 1 is MQA."""
    head_width: int | None = None
    """Width H of a head; `width / num_heads` when unset."""
    feedforward_width: int | None = None
    """Hidden width F; when unset 4 x width, or for gated activations 8/3 x width rounded up to 64."""
    max_length: int = 1024
    """Longest sequence learned positions have a row for; other positions ignore it."""
    positions: Positions = "rope"
    """How positions enter: rotary, learned or sinusoidal embeddings, ALiBi, or none."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    activation: Activation = "swiglu"
    """Feed-forward non-linearity; `swiglu` and `geglu` are gated."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation before each sublayer and before the head."""
    norm_epsilon: float = 1e-5
    """Added to the variance."""
    bias: bool = False
    """Bias vectors in projections, and in layer norms."""
    head_bias: bool = False
    """A bias on the logits."""
    tie_embeddings: bool = True
    """Whether the head is the transposed embedding table."""
    qk_norm: bool = False
    """RMS-normalise queries and keys per head, with learned scales."""
    attention_softcap: float | None = None
    """Attention logits become `c tanh(x / c)`."""
    logit_softcap: float | None = None
    """Output logits become `c tanh(x / c)`."""
    dropout: float = 0.0
    """Dropout rate on the embedding and on each sublayer's output."""
    attention_dropout: float = 0.0
    """Dropout rate on attention probabilities."""
    windows: tuple[int | None, ...] = (None,)
    """Sliding windows of successive layers, repeated to the depth; None sees everything its mask allows."""
    init_std: float | None = 0.02
    """Standard deviation of initial weights; None takes 1/sqrt(fan-in). Projections into the residual
    stream are divided by sqrt(2 L) (GPT-2, section 2.3)."""
    scan_layers: bool = True
    """One compiled block scanned over the depth; False unrolls (slower to compile, sometimes faster to run)."""
    remat: Remat = "full"
    """What the backward pass recomputes of a block: nothing, all but matrix products (`dots`), everything (`full`)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward and backward pass; parameters are float32 always."""
    attention: Literal["auto", "xla", "cudnn", "chunked"] = "auto"
    """Attention backend, see :func:`lmjax.kernels.attention.attend`."""

    def __post_init__(self):
        for name in ("width", "num_layers", "num_heads", "max_length", "pad_vocab_to"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be at least 1")
        if self.vocab_size < 0:
            raise ValueError(f"model.vocab_size={self.vocab_size}: must be positive, or 0 for the tokenizer's")
        if self.head_width is None and self.width % self.num_heads:
            raise ValueError(
                f"model.width={self.width} is not divisible by model.num_heads={self.num_heads}: "
                f"change one of them, or set model.head_width"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} is not a multiple of model.num_kv_heads={self.num_kv_heads}: "
                f"each key-value head serves the same number of query heads"
            )
        if self.positions == "rope" and self.key_width % 2:
            raise ValueError(f"model.head_width={self.key_width}: rotary positions need an even head width")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"model.width={self.width}: sinusoidal positions need an even width")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be at least 0 and below 1")
        for name in ("attention_softcap", "logit_softcap", "init_std", "norm_epsilon", "rope_theta"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"model.{name}={value}: must be positive")
        if not self.windows or any(w is not None and w < 1 for w in self.windows):
            raise ValueError(f"model.windows={self.windows}: a non-empty list of positive window sizes or None")

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def key_width(self) -> int:
        """H."""
        return self.width // self.num_heads if self.head_width is None else self.head_width

    @property
    def hidden_width(self) -> int:
        """F."""
        if self.feedforward_width is not None:
            return self.feedforward_width
        return -(-8 * self.width // (3 * 64)) * 64 if self.activation in GATED else 4 * self.width

    def with_vocabulary(self, size: int) -> "ModelConfig":
        """This configuration for a tokenizer of ``size`` ids.

        Raises:
          ValueError: ``vocab_size`` is set, and too small for the tokenizer.
        """
        if self.vocab_size == 0:
            return dataclasses.replace(self, vocab_size=-(-size // self.pad_vocab_to) * self.pad_vocab_to)
        if self.vocab_size < size:
            raise ValueError(
                f"model.vocab_size={self.vocab_size} is smaller than the tokenizer's {size} ids: "
                f"set it to at least {size}, or to 0 to follow the tokenizer"
            )
        return self
