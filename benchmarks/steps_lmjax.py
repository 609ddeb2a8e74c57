"""Training steps of lmjax, for `steps.py`: the trainer's own jitted step, corruption and transfer included."""

import argparse

import jax
import numpy as np
from steps import RATE, SENTINELS, Shape
from turns import resident_peak, serve

from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import CausalLM, MaskedLM, Objective, SpanCorruption
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.costs import summary_of
from lmjax.train.metrics import peak_flops
from lmjax.train.optimizers import AdamW
from lmjax.train.setup import build_learner
from lmjax.types import Rows


def model_config(shape: Shape, execution: ExecutionConfig) -> ModelConfig:
    """The configuration of a shape's architecture, as the interop tables read it from transformers."""
    architectures: dict[str, dict] = {
        "gpt": {"positions": "learned", "norm": "layernorm", "activation": "gelu"},
        "llama": {"positions": "rope", "norm": "rmsnorm", "activation": "swiglu", "num_kv_heads": shape.kv_heads},
        "bert": {
            "positions": "learned",
            "residual": "post",
            "final_norm": False,
            "embedding_norm": True,
            "norm": "layernorm",
            "bias": True,
            "head_bias": True,
            "head_transform": True,
            "activation": "gelu",
            "num_types": 1,
        },
        "modernbert": {
            "positions": "rope",
            "norm": "layernorm",
            "embedding_norm": True,
            "skip_first_norm": True,
            "norm_bias": False,
            "head_bias": True,
            "head_transform": True,
            "activation": "geglu_exact",
            "windows": (None, 65, 65),
            "rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
        },
        "t5": {
            "positions": "relative",
            "encoder_layers": shape.layers,
            "relative_past_only": True,
            "activation": "relu",
            "attention_scale": 1.0,
            "logit_scale": shape.width**-0.5,
            "init_std": None,
            "embedding_init_std": 1.0,
        },
    }
    return ModelConfig(
        vocab_size=shape.vocabulary,
        width=shape.width,
        num_layers=shape.layers,
        num_heads=shape.heads,
        feedforward_width=shape.hidden,
        max_length=shape.length,
        execution=execution,
        **architectures[shape.family],
    )


def objective(shape: Shape) -> Objective:
    """What a shape's family is trained on."""
    if shape.family in ("bert", "modernbert"):
        return MaskedLM(rate=RATE)
    return SpanCorruption(form="encoder_decoder", density=RATE) if shape.family == "t5" else CausalLM()


def vocabulary(shape: Shape) -> Vocabulary:
    """A vocabulary with the special ids that the objectives need."""
    special: dict = {"mask_id": shape.vocabulary - 1}
    if shape.family == "t5":
        sentinels = min(SENTINELS, shape.vocabulary // 4)
        special = {"pad_id": 0, "eos_id": 1, "sentinel_ids": tuple(shape.vocabulary - 1 - i for i in range(sentinels))}
    return Vocabulary(size=shape.vocabulary, byte_length_V=np.ones(shape.vocabulary, np.int32), **special)


def main() -> None:
    """Compiles the step, takes a few and serves blocks of steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", type=Shape.from_json)
    parser.add_argument("--scan", action="store_true", help="scan the layers, for deep models")
    parser.add_argument("--remat", default="none", help="as model.execution.remat")
    parser.add_argument("--low-precision", default="none", help="as model.execution.low_precision")
    options = parser.parse_args()
    shape: Shape = options.shape
    execution = ExecutionConfig(
        dtype=shape.dtype, scan_layers=options.scan, remat=options.remat, low_precision=options.low_precision
    )
    config = RunConfig(
        name="steps",
        objective=objective(shape),
        model=model_config(shape, execution),
        optimizer=AdamW(learning_rate=1e-4, beta2=0.95, weight_decay=0.1, decay_embeddings=True),
        schedule=ScheduleConfig(kind="constant"),
        train=TrainConfig(steps=1_000_000, batch_size=shape.batch, sequence_length=shape.length),
    )
    learner = build_learner(config, vocabulary(shape), devices=jax.devices()[:1])
    length = config.objective.row_length(shape.length)
    draw = np.random.default_rng(0)
    text = draw.integers(5, shape.vocabulary * 3 // 4, 1_000_000).astype(np.int32)
    state = learner.init(0)

    def steps(count: int) -> None:
        nonlocal state
        metrics = None
        for _ in range(count):
            starts = draw.integers(0, len(text) - length, (shape.batch, 1))
            rows = jax.device_put(Rows(tokens_BT=text[starts + np.arange(length)]), learner.row_sharding)
            state, new_metrics = learner.train_step(state, rows)
            if metrics is not None:
                jax.device_get(metrics)
            metrics = new_metrics
        jax.device_get(metrics)

    device = jax.devices()[0]
    summary = summary_of(config, learner.spec, sequence_length=shape.length)
    facts = {
        "parameters": summary.parameters,
        "flops_per_token": summary.flops_per_token,
        "peak_flops": peak_flops(device.device_kind),
        "device": device.device_kind,
        "versions": f"jax {jax.__version__}",
    }
    has_stats = device.memory_stats() is not None
    with jax.set_mesh(learner.mesh):
        steps(3)
        serve(
            steps,
            facts=facts,
            peak=(lambda: device.memory_stats()["peak_bytes_in_use"]) if has_stats else resident_peak,
        )


if __name__ == "__main__":
    main()
