"""Checks that the values of a model's configuration fit together.

:class:`lmjax.models.config.ModelConfig` runs these checks when it is made.
"""

from typing import Any

from lmjax.field_types import check_literals
from lmjax.kernels.attention.dispatch import RING_BACKENDS


def check_model(config: Any) -> None:
    """Refuses a model that cannot be built.

    Args:
      config: a ``ModelConfig``; it is not named as the type, because its module imports this one.

    Raises:
      ValueError: a value is not possible; the message names the field, its value and the remedy.
    """
    check_literals(config, "model.")
    _check_sizes(config)
    _check_numbers(config)
    _check_positions(config)
    _check_feedforward(config)
    _check_latent(config)
    _check_mixers(config)
    _check_relative(config)
    _check_experts(config)
    _check_embedding(config)
    _check_encoder(config)
    _check_context(config)


def _check_sizes(config: Any) -> None:
    for name in ("width", "num_layers", "num_heads", "max_length", "pad_vocab_to"):
        if getattr(config, name) < 1:
            raise ValueError(f"model.{name}={getattr(config, name)}: must be at least 1")
    for name in (
        "num_kv_heads", "head_width", "embedding_width", "encoder_width", "encoder_heads",
        "encoder_feedforward_width",
    ):  # fmt: skip
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"model.{name}={getattr(config, name)}: must be at least 1, or None")
    if config.vocab_size < 0:
        raise ValueError(f"model.vocab_size={config.vocab_size}: must be positive, or 0 for the tokenizer's")
    if config.head_width is None and config.width % config.num_heads:
        raise ValueError(
            f"model.width={config.width} is not divisible by model.num_heads={config.num_heads}: "
            f"change one of them, or set model.head_width"
        )
    if config.num_heads % config.kv_heads:
        raise ValueError(
            f"model.num_heads={config.num_heads} is not a multiple of model.num_kv_heads={config.num_kv_heads}: "
            f"each key-value head serves the same number of query heads"
        )


def _check_numbers(config: Any) -> None:
    for name in ("dropout", "attention_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"model.{name}={getattr(config, name)}: must be at least 0 and below 1")
    for name in (
        "attention_softcap", "logit_softcap", "init_std", "embedding_init_std", "norm_epsilon", "rope_theta",
        "local_rope_theta", "logit_scale", "attention_scale", "embedding_scale", "sublayer_scale", "qkv_clip",
    ):  # fmt: skip
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"model.{name}={value}: must be positive")


def _check_positions(config: Any) -> None:
    if config.positions == "rope" and not 0 < config.rope_fraction <= 1:
        raise ValueError(f"model.rope_fraction={config.rope_fraction}: must be above 0 and at most 1")
    if config.positions == "rope" and config.rotated_width % 2:
        raise ValueError(
            f"model.rope_fraction={config.rope_fraction} of model.head_width={config.key_width}: rotary positions turn "
            f"an even number of dimensions, not {config.rotated_width}: change one of them"
        )
    if config.positions == "sinusoidal" and config.width % 2:
        raise ValueError(f"model.width={config.width}: sinusoidal positions need an even width")
    if not config.windows or any(w is not None and w < 1 for w in config.windows):
        raise ValueError(f"model.windows={config.windows}: a non-empty list of positive window sizes or None")
    if not config.rope_layers:
        raise ValueError("model.rope_layers=(): a non-empty list of True or False")


def _check_feedforward(config: Any) -> None:
    if config.feedforward_width is not None and config.feedforward_width < 0:
        raise ValueError(f"model.feedforward_width={config.feedforward_width}: must be positive, or 0 for none")
    if config.feedforward_width == 0 and (config.experts.number or "parallel" in config.residual):
        raise ValueError(
            f"model.feedforward_width=0 leaves no feed-forward for model.experts.number={config.experts.number} or "
            f"model.residual={config.residual!r}: give it a width, or set them to 0 and 'pre'"
        )


def _check_latent(config: Any) -> None:
    if not config.latent.rank:
        return
    for name, allowed in (
        ("positions", ("rope",)), ("rope_fraction", (1.0,)), ("num_kv_heads", (None, config.num_heads)),
        ("qk_norm", ("none",)), ("attention_sinks", (False,)), ("encoder_layers", (0,)),
        ("rope_layers", ((True,),)), ("qkv_clip", (None,)),
    ):  # fmt: skip
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"model.{name}={getattr(config, name)!r}: with model.latent.rank={config.latent.rank} it can only be "
                f"{allowed[0]!r}: change one of them"
            )


def _check_mixers(config: Any) -> None:
    if not config.mixers:
        raise ValueError("model.mixers=(): name a mixer for one layer or more")
    if "mamba2" in config.mixers:
        heads = config.mamba2.num_heads(config.width)
        if heads * config.mamba2.head_width != config.mamba2.expansion * config.width or heads % config.mamba2.groups:
            raise ValueError(
                f"model.mamba2: width {config.mamba2.expansion} x {config.width} is not a whole number of heads of "
                f"{config.mamba2.head_width} for {config.mamba2.groups} groups: change head_width or groups"
            )
    if "rwkv6" in config.mixers and config.width % config.rwkv6.head_width:
        raise ValueError(
            f"model.rwkv6.head_width={config.rwkv6.head_width} does not divide model.width={config.width}: change it"
        )
    if config.recurrent and (config.encoder_layers or config.share_layers):
        raise ValueError(
            f"model.mixers={config.mixers}: recurrent layers are for single stacks with layers of their own: set "
            f"model.encoder_layers to 0 and model.share_layers to False"
        )


def _check_relative(config: Any) -> None:
    exact = config.relative_buckets // (2 if config.relative_past_only else 4)
    if exact < 1 or config.relative_max_distance <= exact:
        raise ValueError(
            f"model.relative_buckets={config.relative_buckets} with model.relative_max_distance="
            f"{config.relative_max_distance}: take at least 4 buckets, and a distance above {exact}"
        )


def _check_experts(config: Any) -> None:
    if config.share_layers and not all(map(config.has_experts, range(config.num_layers))) and config.experts.number:
        raise ValueError(
            f"model.experts.every={config.experts.every} and model.experts.first_dense={config.experts.first_dense}: "
            f"with model.share_layers all layers are alike: set them to 1 and 0"
        )
    if config.experts.number and not any(map(config.has_experts, range(config.num_layers))):
        raise ValueError(
            f"model.experts: none of the {config.num_layers} layers has experts with every={config.experts.every} and "
            f"first_dense={config.experts.first_dense}: lower them, or set number to 0"
        )
    if config.width_base is not None and config.width_base < 1:
        raise ValueError(f"model.width_base={config.width_base}: must be at least 1, or None to scale nothing")


def _check_embedding(config: Any) -> None:
    if config.embedding_width is not None and config.tie_embeddings and not config.head_transform:
        raise ValueError(
            f"model.embedding_width={config.embedding_width}: a tied head has that width too: set "
            f"model.head_transform to True, or model.tie_embeddings to False"
        )
    if config.pair_head and not config.pooler:
        raise ValueError("model.pair_head=True classifies the pooled state: set model.pooler to True")
    if config.skip_first_norm and config.residual not in ("pre", "sandwich"):
        raise ValueError(
            f"model.skip_first_norm=True: there is no norm before attention with model.residual={config.residual!r}"
        )
    for name in ("windows", "rope_layers"):
        if config.share_layers and len(getattr(config, name)) > 1:
            raise ValueError(
                f"model.{name}={getattr(config, name)}: with model.share_layers all layers are alike: give one value"
            )


def _check_encoder(config: Any) -> None:
    if config.encoder_layers < 0:
        raise ValueError(f"model.encoder_layers={config.encoder_layers}: must be positive, or 0 for a single stack")
    if not config.encoder_layers:
        for name in ("encoder_width", "encoder_heads", "encoder_feedforward_width"):
            if getattr(config, name) is not None:
                raise ValueError(f"model.{name}={getattr(config, name)}: there is no encoder: set model.encoder_layers")
        return
    if "parallel" in config.residual:
        raise ValueError(
            f"model.residual={config.residual!r}: a decoder with cross attention has three sublayers one after the "
            f"other: use pre, post, sandwich or output, or model.encoder_layers=0"
        )
    if config.share_encoder_embedding and config.encoder_width not in (None, config.width):
        raise ValueError(
            f"model.encoder_width={config.encoder_width} and model.width={config.width} cannot share a token table: "
            f"set model.share_encoder_embedding to False"
        )
    _ = config.encoder  # Making the encoder's configuration runs its checks.


def _check_context(config: Any) -> None:
    if config.execution.context != "ring":
        return
    for name, value, allowed in (
        ("positions", config.positions, config.positions not in ("alibi", "relative")),
        ("attention_dropout", config.attention_dropout, config.attention_dropout == 0),
        ("execution.attention", config.execution.attention, config.execution.attention in RING_BACKENDS),
    ):
        if not allowed:
            raise ValueError(
                f"model.execution.context='ring' cannot do model.{name}={value!r}: set model.execution.context='gather'"
            )
