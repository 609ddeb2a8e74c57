"""A small model of T5's span corruption on a single stack (Raffel et al. 2020): nothing to download.

    lmjax train configs/small/span_corruption_small.py

Data: windows over the standard library's own sources, end to end. 15% of a window's tokens are cut out in spans
of 3 on average; the model reads the rest in both directions and writes what was cut.

0.9M parameters, 800 steps, about a minute on two CPU cores. Validation loss: 4.53 nats a token of the targets (5.15
at step 200).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SpanCorruption
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def span_corruption_small() -> RunConfig:
    return RunConfig(
        name="span_corruption_small",
        objective=SpanCorruption(),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=2048,
            num_sentinels=16,
            max_train_bytes=8_000_000,
        ),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=800, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=400),
    )
