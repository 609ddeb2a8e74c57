"""A small encoder whose rows grow longer and whose masks grow rarer as it learns: nothing to download.

    lmjax train configs/small/curriculum_small.py

Data: windows over the standard library's own sources, of 32 tokens for 200 steps, of 64 up to step 400 and then of
128, as many tokens in every step. The share of masked tokens falls from 0.3 to 0.15 along a cosine in 600 steps.

0.9M parameters, 800 steps, about a minute on two CPU cores. Validation loss, at 128 tokens and a rate of 0.15: 3.74
nats a masked token (5.56 at step 200).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import MaskedLM, Ramp
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def curriculum_small() -> RunConfig:
    return RunConfig(
        name="curriculum_small",
        objective=MaskedLM(rate=Ramp(start=0.3, end=0.15, steps=600, shape="cosine")),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(
            steps=800,
            batch_size=16,
            sequence_length=128,
            sequence_warmup=((200, 32), (400, 64)),
            eval_every=200,
        ),
        checkpoint=CheckpointConfig(every_steps=400),
    )
