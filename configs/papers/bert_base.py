"""BERT base (Devlin et al. 2019), trained as RoBERTa trains it (Liu et al. 2019): masked tokens only, no pairs.

    lmjax train configs/papers/bert_base.py --data.path "data/wikibooks/*.jsonl.zst"
    lmjax compile configs/papers/bert_base.py --topology v5e:2x4

Data: documents as JSON lines with a field "text"; both papers use Wikipedia and BookCorpus, 16 GB. A
byte-level BPE tokenizer of 30k ids with <mask> is trained on them first. Whole documents are packed into rows
of 512 and do not see each other; 15% of the tokens are predicted, others in every epoch.

109M parameters. Cost: 1,000,000 steps of 256 rows are 131B tokens and 8e19 FLOPs, about a day on eight A100s
at 40% of their peak.

Expected: RoBERTa (table 3) reports a perplexity of 3.99 on held-out text for these steps, batch and learning
rate, a loss of 1.38 nats a masked token, with rows that run on from one document into the next and a tokenizer
that is not named. That figure is theirs; this recipe has not been run to its end here.

Not as in the paper: blocks normalise before each sublayer, not after it, which trains more stably; there are
no segment embeddings; the head is the embedding table and a bias without a layer before it; rows are 512 long
from the first step.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import MaskedLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def bert_base() -> RunConfig:
    return RunConfig(
        name="bert_base",
        objective=MaskedLM(rate=0.15, mask_fraction=0.8, random_fraction=0.1),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            max_length=512,
            positions="learned",
            norm="layernorm",
            norm_epsilon=1e-12,
            bias=True,
            head_bias=True,
            activation="gelu",
            dropout=0.1,
            attention_dropout=0.1,
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=30_522,
            special_tokens=("<pad>", "<s>", "</s>", "<mask>"),
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/wikibooks/*.jsonl.zst", packing="best_fit", add_bos=True, valid_fraction=0.001),
        optimizer=AdamW(learning_rate=1e-4, beta2=0.999, epsilon=1e-6, weight_decay=0.01, decay_embeddings=True),
        schedule=ScheduleConfig(kind="linear", warmup_steps=10_000),
        train=TrainConfig(steps=1_000_000, batch_size=256, sequence_length=512, eval_every=5000, eval_batches=50),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
