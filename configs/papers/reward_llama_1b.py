"""A reward model on top of configs/papers/llama_1b.py, as Llama 2 trains them (Touvron et al. 2023, section 3.2.2).

    lmjax train configs/papers/reward_llama_1b.py --data.path "data/preferences/*.jsonl.zst" --mesh.fsdp 8 \\
        --tokenizer.path runs/llama_1b/tokenizer
    lmjax compile configs/papers/reward_llama_1b.py --topology v5e:4x4

Data: JSON lines with the fields "prompt", "chosen" and "rejected". The prompt is cut at its beginning where it does
not fit. The run begins with the weights of runs/llama_1b and has its tokenizer.

1.24B parameters. Cost: 330 steps of 512 pairs are one pass over 170,000, at most 0.69B tokens and 4e18 FLOPs,
about an hour on eight A100s.

Expected: the paper has no figure for a model of this size. This recipe has not been run to its end here.

Not as in the paper: one margin for all pairs (objective.margin), as the data grade no preference.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import PairwiseReward
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def reward_llama_1b() -> RunConfig:
    return RunConfig(
        name="reward_llama_1b",
        objective=PairwiseReward(),
        model=ModelConfig(
            width=2048,
            num_layers=16,
            num_heads=32,
            num_kv_heads=8,
            feedforward_width=8192,
            rope_theta=500_000.0,
            activation="swiglu",
            norm="rmsnorm",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=128_256,
            special_tokens=("<|begin_of_text|>", "<|end_of_text|>"),
        ),
        data=DataConfig(
            path="data/preferences/*.jsonl.zst",
            prompt_field="prompt",
            members=("chosen", "rejected"),
            packing="examples",
            add_bos=True,
            valid_fraction=0.01,
        ),
        optimizer=AdamW(learning_rate=1e-5, beta2=0.95, epsilon=1e-5, weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=10, final_fraction=0.1),
        train=TrainConfig(
            steps=330,
            batch_size=512,
            sequence_length=2048,
            microbatches=16,
            eval_every=50,
            watchdog_minutes=30,
            init_from="runs/llama_1b",
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
        checkpoint=CheckpointConfig(every_steps=50),
    )
