"""A small hybrid of Mamba-2 and attention layers (after Jamba: Lieber et al. 2024): nothing to download.

    lmjax train configs/small/hybrid_small.py

Data: the standard library's own sources, documents kept to themselves in rows of 128 tokens: at a document's
beginning the state is empty. Three layers in four are Mamba-2, the fourth is attention without positions, which
the recurrences make unnecessary.

1.25M parameters, 400 steps, about a minute on two CPU cores. Validation loss: 4.06 nats a token (4.73 at step 200).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.recurrent import Mamba2Config
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def hybrid_small() -> RunConfig:
    return RunConfig(
        name="hybrid_small",
        model=ModelConfig(
            width=128,
            num_layers=4,
            num_heads=4,
            mixers=("mamba2", "mamba2", "attention", "mamba2"),
            mamba2=Mamba2Config(head_width=32, state_width=32),
            positions="none",
            execution=ExecutionConfig(scan_layers=False, remat="none", mamba2_chunk=32),
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="segments"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=400, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=200),
    )
