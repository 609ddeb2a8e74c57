"""Sequence-level unlikelihood (Welleck et al. 2020, section 5.2): further training of a finished model.

    lmjax train configs/papers/sequence_unlikelihood.py --train.init-from runs/unlikelihood
    lmjax compile configs/papers/sequence_unlikelihood.py --topology v5e:2x4

Data: as for `unlikelihood`, whose model this begins with. From 50 tokens of each row the model writes the 100
likeliest, and tokens of 4-grams it repeats there are made unlikely.

235M parameters. Cost: 1,500 steps; each writes 100 tokens one after the other, under an hour on eight A100s.

Expected: in the paper (table 2, test) 5.9% of the 4-grams of greedy continuations are repeated, 28.3% before and
0.6% in people's text, at a perplexity of 26.7 a word, 26.9 before. Those figures are theirs; this recipe has not been
run to its end here.

As in the paper: 1,500 updates, prompts of 50, continuations of 100, n = 4, greedy. Not as in the paper: each step has
the token-level and the sequence-level loss, where the paper draws one of them by a coin.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import SequenceUnlikelihoodLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def sequence_unlikelihood() -> RunConfig:
    return RunConfig(
        name="sequence_unlikelihood",
        objective=SequenceUnlikelihoodLM(alpha=1.0, ngram=4, prompt_length=50, free_tokens=100),
        model=ModelConfig(
            width=1024,
            num_layers=16,
            num_heads=8,
            feedforward_width=4096,
            norm="layernorm",
            bias=True,
            activation="relu",
            dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=32_768, max_train_bytes=200_000_000),
        data=DataConfig(path="data/wikitext103/*.jsonl", valid_fraction=0.005),
        optimizer=AdamW(learning_rate=2e-5, beta2=0.98, weight_decay=0.01),
        schedule=ScheduleConfig(kind="linear", warmup_steps=100),
        train=TrainConfig(steps=1500, batch_size=32, sequence_length=1536, eval_every=500, eval_batches=0),
        checkpoint=CheckpointConfig(every_steps=500),
    )
