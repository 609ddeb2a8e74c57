"""GPT-2 small (Radford et al. 2019) with scheduled sampling (Bengio et al. 2015) in two passes, on web text.

    lmjax train configs/papers/scheduled_sampling.py --data.path "data/openwebtext/*.jsonl.zst"
    lmjax compile configs/papers/scheduled_sampling.py --topology v5e:2x4

Data: documents as JSON lines with a field "text". The share of true tokens among the inputs falls from 1 to 0.75 by
Bengio et al.'s inverse sigmoid over the first 100,000 steps; predictions are drawn from the model's distribution.

124M parameters. Cost: 100,000 steps of 491,520 tokens are 49B tokens; with the pass that predicts, 5.4e19 FLOPs,
about 15 hours on eight A100s at 40% of their peak.

Not as in the papers, whose tasks are conditional (captions, parses, speech; translation in Mihaylova and Martins
2019, two-pass): a causal model of text has no source to lean on when its inputs are wrong, so the share stops at
0.75 where theirs goes on towards 0. This recipe has not been run to its end here.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import ScheduledSampling
from lmjax.schedules import ScheduleConfig
from lmjax.schedules.ramp import Ramp
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def scheduled_sampling() -> RunConfig:
    return RunConfig(
        name="scheduled_sampling",
        objective=ScheduledSampling(
            teacher_rate=Ramp(start=1.0, end=0.75, steps=100_000, shape="inverse_sigmoid"),
        ),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            max_length=1024,
            positions="learned",
            norm="layernorm",
            bias=True,
            activation="gelu_tanh",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=50_257,
            special_tokens=("<|endoftext|>",),
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/openwebtext/*.jsonl.zst", packing="segments", valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=6e-4, weight_decay=0.1, decay_embeddings=True),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final_fraction=0.1),
        train=TrainConfig(
            steps=100_000, batch_size=480, sequence_length=1024, microbatches=5, eval_every=1000, eval_batches=0
        ),
        checkpoint=CheckpointConfig(every_steps=1000, keep_every=10_000),
    )
