"""SEDD small on OpenWebText (Lou et al. 2024): score entropy with absorbing noise.

    lmjax train configs/papers/score_entropy_owt.py --data.path "data/openwebtext/*.jsonl.zst"
    lmjax compile configs/papers/score_entropy_owt.py --topology v5e:4x4 --train.microbatches 4

Data: documents as JSON lines with a field "text" (OpenWebText; .zst needs the extra `data`). A byte-level BPE
tokenizer of GPT-2's size and a mask are trained on them first. Rows are windows of 1,024 tokens over all documents
end to end.

164M parameters, 86M of them not embeddings. Cost: 1,300,000 steps of 512 rows are 682B tokens and 5.9e20 FLOPs,
about seven days on eight A100s at 40% of their peak.

Expected: Sahoo et al. (2024, table 2) measure a perplexity of at most 24.1 on held-out text for such a model after
1,000,000 steps, a bound of 3.18 nats a token, with GPT-2's own tokenizer. That figure is theirs; this recipe has not
been run to its end here.

Settings of the authors' released configuration. Not as there: its blocks are those of DiT, conditioned on the noise
in every layer; here the noise level is added to the embeddings.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import ScoreEntropy
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def score_entropy_owt() -> RunConfig:
    return RunConfig(
        name="score_entropy_owt",
        objective=ScoreEntropy(schedule="log_linear", low_discrepancy=False),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            positions="rope",
            norm="layernorm",
            activation="gelu_tanh",
            bias=True,
            tie_embeddings=False,
            dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=50_258,
            special_tokens=("<|endoftext|>", "<mask>"),
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/openwebtext/*.jsonl.zst", packing="windows", valid_fraction=0.0005),
        optimizer=AdamW(learning_rate=3e-4, beta2=0.999, epsilon=1e-8, weight_decay=0.0),
        schedule=ScheduleConfig(kind="constant", warmup_steps=2500),
        train=TrainConfig(
            steps=1_300_000, batch_size=512, sequence_length=1024, ema_decay=0.9999, eval_every=5000, eval_batches=50
        ),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
