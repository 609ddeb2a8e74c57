"""A small HuBERT (Hsu et al. 2021) that listens to text: nothing to download.

    lmjax train configs/small/hubert_small.py

Data: the standard library's own sources, spoken: each byte sounds for four frames, a spectrum of its own in noise.
Spans of ten frames are hidden, about half of all frames, and the model names the cluster of each hidden frame, one
of 64 that a frozen random projection divides the frames into (BEST-RQ: Chiu et al. 2022).

0.66M parameters, 600 steps, a minute and a half on two CPU cores. Validation loss: 2.45 nats a hidden frame (2.73 at
step 200); the clusters' shares alone give 3.16, and a uniform guess 4.16.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import FeatureSource, MaskedFrames
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def hubert_small() -> RunConfig:
    return RunConfig(
        name="hubert_small",
        objective=MaskedFrames(
            source=FeatureSource(kind="tones", width=40, noise=0.1), num_clusters=64, cluster_width=64
        ),
        model=ModelConfig(
            width=128,
            num_layers=3,
            num_heads=4,
            execution=ExecutionConfig(scan_layers=False, remat="none"),
            init_std=None,
        ),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path="stdlib"),
        optimizer=AdamW(learning_rate=2e-3, beta2=0.98),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=600, batch_size=16, sequence_length=256, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=300),
    )
