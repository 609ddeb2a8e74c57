"""nanoGPT's published CPU setting for characters of tiny Shakespeare, on bytes.

    lmjax train configs/shakespeare_char.py --data.path input.txt

4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps, no dropout: 0.8M parameters, about a
minute on two CPU cores. Validation loss, on the last tenth of the text: 1.81 nats a character.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def shakespeare_char() -> RunConfig:
    return RunConfig(
        name="shakespeare_char",
        model=ModelConfig(
            width=128,
            num_layers=4,
            num_heads=4,
            max_length=64,
            positions="learned",
            norm="layernorm",
            activation="gelu",
            execution=ExecutionConfig(scan_layers=False, remat="none"),
            pad_vocab_to=1,
        ),
        tokenizer=TokenizerConfig(kind="bytes", special_tokens=()),
        data=DataConfig(path="input.txt", add_eos=False, split="tail", valid_fraction=0.1),
        optimizer=AdamW(learning_rate=2e-3, beta2=0.99, weight_decay=0.1, decay_embeddings=True),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=100, final_fraction=0.1),
        train=TrainConfig(steps=2000, batch_size=12, sequence_length=64, eval_every=500, eval_batches=0),
        checkpoint=CheckpointConfig(every_steps=500),
    )
