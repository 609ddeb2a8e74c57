"""The masked autoencoder of images with a ViT-B encoder (MAE: He et al. 2022).

    lmjax train configs/papers/mae_base.py --data.path "data/imagenet/*.jsonl.zst"
    lmjax compile configs/papers/mae_base.py --topology v5e:4x4

Data: images as JSON lines with a field "text": 196 patches of 16 by 16 pixels, a patch's 768 numbers one after the
other, each divided by two and written as the character of that code (docs/objectives/masked_reconstruction.md has
the four lines of Python for it). The authors use the training images of ImageNet, 1.28M of 224 by 224 pixels, which
are 190 GB of such text.

112M parameters, 86M of them the encoder's. Cost: 250,000 steps of 4,096 images are 800 epochs and 6e19 FLOPs, about
16 hours on eight A100s at 40% of their peak.

Expected: the authors report an ImageNet accuracy of 83.6% for this encoder, fine-tuned after twice as many epochs
(table 3), and no loss. This recipe has not been run to its end here.

Not as in the paper: an image is cropped once, when the data are made, and not anew in every epoch; positions are
sines of a patch's number and not of its row and column; 128 levels of brightness; no class token.
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


def mae_base() -> RunConfig:
    return RunConfig(
        name="mae_base",
        objective=MaskedReconstruction(
            # Mean and deviation of ImageNet's pixels, halved.
            source=FeatureSource(kind="values", width=768, offset=57.0, scale=29.0),
            rate=0.75,
            normalize_patches=True,
            decoder_width=512,
            decoder_layers=8,
            decoder_heads=16,
        ),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            positions="sinusoidal",
            norm="layernorm",
            norm_epsilon=1e-6,
            bias=True,
            activation="gelu",
            init_std=None,
            residual_init="plain",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path="data/imagenet/*.jsonl.zst", packing="examples", add_eos=False, valid_fraction=0.001),
        optimizer=AdamW(learning_rate=2.4e-3, beta2=0.95, weight_decay=0.05, clip_norm=None),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=12_500, final_fraction=0.0),
        train=TrainConfig(steps=250_000, batch_size=4096, sequence_length=196, eval_every=2500, eval_batches=0),
        checkpoint=CheckpointConfig(every_steps=2500, keep_every=50_000),
    )
