"""A small masked autoencoder (MAE: He et al. 2022) that looks at text: nothing to download.

    lmjax train configs/small/mae_small.py

Data: the standard library's own sources, drawn with a font of 3 by 5 pixels as strips 6 pixels high. A patch is two
columns of pixels, half a character's cell. Three quarters of a strip's 256 patches are hidden; the encoder sees the
other 64, and the decoder paints the hidden ones.

0.76M parameters, 800 steps, about a minute on two CPU cores. Validation loss: 0.0981, the mean squared error of a
hidden pixel that is 0 or 1 (0.1112 at step 200); painting the mean patch everywhere has 0.1480.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import FeatureSource, MaskedReconstruction
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def mae_small() -> RunConfig:
    return RunConfig(
        name="mae_small",
        objective=MaskedReconstruction(
            source=FeatureSource(kind="glyphs", width=12),
            normalize_patches=False,
            decoder_width=64,
            decoder_layers=2,
            decoder_heads=4,
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
        optimizer=AdamW(learning_rate=2e-3, beta2=0.95),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay_fraction=0.3),
        train=TrainConfig(steps=800, batch_size=16, sequence_length=256, eval_every=200),
        checkpoint=CheckpointConfig(every_steps=400),
    )
