"""A mixture of experts of the shapes of Mixtral 8x7B (Jiang et al. 2024) on web text.

    lmjax train configs/papers/mixtral_8x7b.py --data.path "data/web/**/*.jsonl.zst" --mesh.fsdp 8
    lmjax compile configs/papers/mixtral_8x7b.py --topology v5p:4x4x4 --mesh.fsdp 8

Data: documents as JSON lines with a field "text" (DCLM, FineWeb-Edu, Dolma, ...), 200B tokens or more. A
byte-level BPE tokenizer of Mixtral's size is trained on them first. Documents do not see each other.

46.7B parameters, 12.9B of them for a token. Cost: 50,000 steps of 4.2M tokens are 210B tokens and 1.7e22 FLOPs,
about eight days on 64 H100s at 40% of their peak. Parameters, gradients and optimizer state, 750 GB, are split over
mesh.expert x mesh.fsdp = 64 devices: each group of eight holds the eight experts of a layer between them.

Its authors published the architecture and no training settings. Learning rate, batch and schedule here are those of
Llama 2 70B (Touvron et al. 2023, section 2.2), the balance loss is transformers' default for the model, and 0.001 of
router z-loss is ST-MoE's. This recipe has not been run here.

Dropless: no token is refused by a full expert. `--model.experts.capacity-factor 1.25` bounds the buffers instead.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.routing import ExpertsConfig
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def mixtral_8x7b() -> RunConfig:
    return RunConfig(
        name="mixtral_8x7b",
        model=ModelConfig(
            width=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=8,
            feedforward_width=14_336,
            experts=ExpertsConfig(number=8, per_token=2, balance_loss=0.001, router_z_loss=0.001),
            rope_theta=1_000_000.0,
            tie_embeddings=False,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=32_000,
            special_tokens=("<|begin_of_text|>", "<|end_of_text|>"),
            max_train_bytes=500_000_000,
        ),
        data=DataConfig(path="data/web/**/*.jsonl.zst", packing="segments", add_bos=True, valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=1.5e-4, beta2=0.95, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final_fraction=0.1),
        train=TrainConfig(
            steps=50_000, batch_size=1024, sequence_length=4096, microbatches=16, eval_every=1000, watchdog_minutes=30
        ),
        mesh=MeshConfig(data=-1, expert=8),
        checkpoint=CheckpointConfig(every_steps=500, keep_every=10_000),
    )
