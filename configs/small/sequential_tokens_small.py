"""A small model of Python with two prediction modules in sequence (DeepSeek-AI 2024): nothing to download.

    lmjax train configs/small/sequential_tokens_small.py
    lmjax sample runs/sequential_tokens_small --prompt "def "

Data: the standard library's own sources in rows of 128 tokens. The model names the next token, a first module the
one after it, a second the third; lambda falls from 0.3 to 0.1. Validation reports the next token's loss as `loss`,
the others' as `token_2/loss` and `token_3/loss`; sampling uses the model without its modules.

1.4M parameters, 400 steps, about a minute on two CPU cores. Validation loss: 4.20 for the next token (4.85 at step
200), 4.24 and 4.17 by the modules, which are told the tokens before the one they name.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SequentialMultiTokenLM
from lmjax.schedules import ScheduleConfig
from lmjax.schedules.ramp import Ramp
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def sequential_tokens_small() -> RunConfig:
    return RunConfig(
        name="sequential_tokens_small",
        objective=SequentialMultiTokenLM(num_heads=3, weight=Ramp(start=0.3, end=0.1, steps=400)),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="windows"),
        optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=400, batch_size=16, sequence_length=128, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=200),
    )
