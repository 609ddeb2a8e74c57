"""A small encoder trained by masking tokens (BERT's objective as RoBERTa trains it): nothing to download.

    lmjax train configs/small/masked_small.py
    lmjax train configs/small/masked_small.py --objective.rate 0.4

Data: windows over the standard library's own sources, end to end, of which 15% of the tokens are hidden.

0.9M parameters, 800 steps, about a minute on two CPU cores. Validation loss: 4.11 nats a hidden token (5.89 at step
200).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import MaskedLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def masked_small() -> RunConfig:
    return RunConfig(
        name="masked_small",
        objective=MaskedLM(),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=800, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=400),
    )
