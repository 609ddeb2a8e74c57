r"""A dense 7B model with DeepSeek-V3's prediction module (DeepSeek-AI 2024, section 2.2).

    lmjax train configs/papers/sequential_tokens.py --data.path "data/web/**/*.jsonl.zst"
    lmjax compile configs/papers/sequential_tokens.py --topology v5p:4x4x8 --mesh.fsdp 32 --train.microbatches 9 \
      --model.execution.remat products

Data: documents as JSON lines with a field "text", 2T tokens. A byte-level BPE tokenizer of 102,400 ids is trained on
them first. Documents do not see each other.

7.1B parameters, of them 0.24B in the module. Cost: 212,000 steps of 9.4M tokens are 2T tokens and 9e22 FLOPs,
about two months on 128 A100s at 40% of their peak. Parameters, gradients and optimizer state, 115 GB, are split over
mesh.fsdp devices; more devices join as mesh.data.

The module is DeepSeek-V3's: one token more, lambda from 0.3 to 0.1 (the report drops it at once after two thirds,
here it falls along a line). The body is not, whose 671B parameters are a mixture of experts: it is DeepSeek LLM 7B
(DeepSeek-AI 2024, "DeepSeek LLM", table 2: 30 layers of width 4096, 2T tokens, batches of 2,304 rows of 4,096, peak
rate 4.2e-4). This recipe has not been run to its end here.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SequentialMultiTokenLM
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.schedules.ramp import Ramp
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def sequential_tokens() -> RunConfig:
    return RunConfig(
        name="sequential_tokens",
        objective=SequentialMultiTokenLM(num_heads=2, weight=Ramp(start=0.3, end=0.1, steps=212_000)),
        model=ModelConfig(
            width=4096,
            num_layers=30,
            num_heads=32,
            feedforward_width=11_008,
            activation="swiglu",
            norm="rmsnorm",
            tie_embeddings=False,
            init_std=0.006,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=102_400,
            special_tokens=("<|begin_of_text|>", "<|end_of_text|>"),
            max_train_bytes=500_000_000,
        ),
        data=DataConfig(path="data/web/**/*.jsonl.zst", packing="segments", add_bos=True, valid_fraction=0.0001),
        optimizer=AdamW(learning_rate=4.2e-4, beta2=0.95, weight_decay=0.1),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=2000, decay_fraction=0.2, final_fraction=0.1),
        train=TrainConfig(
            steps=212_000, batch_size=2304, sequence_length=4096, microbatches=72, eval_every=1000, watchdog_minutes=30
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
        checkpoint=CheckpointConfig(every_steps=500, keep_every=10_000),
    )
