"""A small encoder of Python in which pieces of one text lie together (Izacard et al. 2022): nothing to download.

    lmjax train configs/contrastive_small.py

Data: windows over the standard library's own sources, documents apart. Two random crops of each, a twentieth to
a half of it, are a pair; those of the rest of the batch are the negatives.

0.9M parameters, 300 steps, a minute on two CPU cores.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.objectives import Contrastive
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizer import OptimizerConfig
from lmjax.train.schedule import ScheduleConfig


def contrastive_small() -> RunConfig:
    return RunConfig(
        name="contrastive_small",
        objective=Contrastive(pairs="crops", temperature=0.05, max_documents=2),
        model=ModelConfig(width=128, num_layers=3, num_heads=4, scan_layers=False, remat="none"),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048, max_train_bytes=8_000_000),
        data=DataConfig(path="stdlib", packing="segments"),
        optimizer=OptimizerConfig(learning_rate=1e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=300, batch_size=32, sequence_length=256, eval_every=50, eval_batches=10),
        checkpoint=CheckpointConfig(every_steps=100),
    )
