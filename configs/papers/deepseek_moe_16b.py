"""Fine-grained and shared experts: DeepSeekMoE 16B (Dai et al. 2024, section 5) on web text.

    lmjax train configs/papers/deepseek_moe_16b.py --data.path "data/web/**/*.jsonl.zst"
    lmjax compile configs/papers/deepseek_moe_16b.py --topology v5p:4x4x4 --mesh.fsdp 8

Data: documents as JSON lines with a field "text", 2T tokens in the paper. A byte-level BPE tokenizer of the paper's
size is trained on them first. Documents do not see each other, which the paper does not say.

64 experts a layer, each a quarter as wide as a standard feed-forward layer; a token goes to 6 of them and to the 2
shared ones. The first layer is dense. 16.4B parameters, 2.8B of them for a token. Cost: 106,449 steps of 18.9M
tokens are 2T tokens and 3.7e22 FLOPs, about seventeen days on 64 H100s at 40% of their peak. Parameters, gradients and
optimizer state, 262 GB, are split over mesh.expert devices; more devices join as mesh.data.

Settings of section 5.1.2, but for the learning rate's two steps down to 0.1 of the peak at 80% and 90%, here a
straight line from 80% on. Balance is by row and between experts only; at this size the paper, too, asks for none
between devices. This recipe has not been run here.

The balancing of DeepSeek-V3 (2024, section 2.1.2) instead: `--model.experts.scores sigmoid
--model.experts.normalize-gates True --model.experts.gate-scale 2.5 --model.experts.balance-bias True
--model.experts.balance-loss 0.0001`.
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


def deepseek_moe_16b() -> RunConfig:
    return RunConfig(
        name="deepseek_moe_16b",
        model=ModelConfig(
            width=2048,
            num_layers=28,
            num_heads=16,
            feedforward_width=10_944,
            experts=ExpertsConfig(
                number=64,
                per_token=6,
                width=1408,
                shared=2,
                first_dense=1,
                normalize_gates=False,
                balance_loss=0.001,
            ),
            tie_embeddings=False,
            init_std=0.006,
            residual_init="plain",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=102_400,
            special_tokens=("<|begin_of_text|>", "<|end_of_text|>"),
            max_train_bytes=500_000_000,
        ),
        data=DataConfig(path="data/web/**/*.jsonl.zst", packing="segments", add_bos=True, valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=4.2e-4, beta2=0.95, weight_decay=0.1),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=2000, decay_fraction=0.2, final_fraction=0.1),
        train=TrainConfig(
            steps=106_449,
            batch_size=4608,
            sequence_length=4096,
            microbatches=72,
            eval_every=1000,
            watchdog_minutes=30,
        ),
        mesh=MeshConfig(data=-1, expert=8),
        checkpoint=CheckpointConfig(every_steps=500, keep_every=10_000),
    )
