"""A small reward model that tells Python from its words in disorder (Ouyang et al. 2022): nothing to download.

    python configs/data/preferences.py data/preferences.jsonl
    lmjax train configs/small/reward_small.py

Data: pairs of continuations of the standard library's functions, made by the first command.

0.9M parameters, 150 steps, under a minute on two CPU cores. Validation loss: 0.18 nats a pair, 94% of them ranked
right (0.24 and 93% at step 50; a model that prefers nothing has 0.69).
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import PairwiseReward
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def reward_small() -> RunConfig:
    return RunConfig(
        name="reward_small",
        objective=PairwiseReward(),
        model=ModelConfig(
            width=128, num_layers=3, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(
            path="data/preferences.jsonl",
            prompt_field="prompt",
            members=("chosen", "rejected"),
            packing="examples",
        ),
        optimizer=AdamW(learning_rate=5e-4, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=20, decay_fraction=0.3),
        train=TrainConfig(steps=150, batch_size=16, sequence_length=192, eval_every=50, eval_batches=10),
        checkpoint=CheckpointConfig(every_steps=100),
    )
