"""UL2 20B (Tay et al. 2022): the mixture of seven denoisers on an encoder and a decoder, trained on C4.

    lmjax train configs/papers/ul2_20b.py --data.path "data/c4/*.jsonl.zst"
    lmjax compile configs/papers/ul2_20b.py --topology v5p:4x4x4

Data: documents as JSON lines with a field "text"; the paper uses C4. A SentencePiece tokenizer of 32,000 pieces,
three mode tokens and 100 sentinels is trained on them first. Windows of 567 tokens over all documents become up
to 512 that the encoder reads and up to 380 that the decoder writes, by the denoiser each is given.

19.6B parameters. Cost: 2,000,000 steps of 1,024 rows are 1.0T tokens read and 1.1e23 FLOPs, about 39 days on 256
A100s at 40% of their peak. Parameters, gradients and optimizer state, 160 GB, are split over mesh.fsdp devices;
more join as mesh.data.

Expected: the paper reports scores of tasks only. This recipe has not been run to its end here.

Sizes, optimizer and z_loss are those of the configuration published with the model. Not as in the paper: its rows hold
512 inputs and 512 targets whatever the denoiser, cut from longer or shorter windows; here all windows are of one
length. The learning rate rises over the first 10,000 steps.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import UL2
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import Adafactor


def ul2_20b() -> RunConfig:
    return RunConfig(
        name="ul2_20b",
        objective=UL2(form="encoder_decoder", z_loss=1e-4),
        model=ModelConfig(
            width=4096,
            encoder_layers=32,
            num_layers=32,
            num_heads=16,
            feedforward_width=16_384,
            positions="relative",
            relative_past_only=True,
            activation="swiglu",
            norm_epsilon=1e-6,
            attention_scale=1.0,
            tie_embeddings=False,
            init_std=None,
            embedding_init_std=1.0,
            residual_init="plain",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="sentencepiece_unigram",
            vocab_size=32_103,
            special_tokens=("<pad>", "</s>"),
            named=("[R]", "[S]", "[X]"),
            num_sentinels=100,
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/c4/*.jsonl.zst", packing="windows", valid_fraction=0.0005),
        optimizer=Adafactor(learning_rate=0.01, weight_decay=0.0, clip_norm=None),
        schedule=ScheduleConfig(kind="inverse_sqrt", warmup_steps=10_000),
        train=TrainConfig(
            steps=2_000_000, batch_size=1024, sequence_length=512, eval_every=5000, eval_batches=10, watchdog_minutes=30
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
        checkpoint=CheckpointConfig(every_steps=1000, keep_every=50_000),
    )
