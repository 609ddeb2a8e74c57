"""A small decoder that continues, fills in and repairs Python, on three objectives at once: nothing to download.

    lmjax train configs/small/mixture_small.py
    lmjax train configs/small/mixture_small.py --objective.by step --folder runs/mixture_by_step
    lmjax sample runs/mixture_small --prompt "def "

Data: windows over the standard library's own sources, end to end. Of every four rows of a step two are continued,
one is told middle last and one has spans dropped; with `--objective.by step` they take turns, step by step.

0.9M parameters, 800 steps, about a minute on two CPU cores. Validation loss in nats a scored token: causal 4.05
(5.25 at step 200), middle 4.13 (5.28), spans 3.99 (4.92).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import CausalLM, FillInMiddle, Mixture, Part, SpanCorruption
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def mixture_small() -> RunConfig:
    return RunConfig(
        name="mixture_small",
        objective=Mixture(
            by="row",
            parts=(
                Part(name="causal", objective=CausalLM(), weight=2.0),
                Part(name="middle", objective=FillInMiddle(rate=0.9)),
                Part(name="spans", objective=SpanCorruption()),
            ),
        ),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=2048,
            named=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
            num_sentinels=32,
            max_train_bytes=8_000_000,
        ),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=800, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=400),
    )
