"""ELECTRA base (Clark et al. 2020): a generator fills in tokens, and what is kept tells which they are.

    lmjax train configs/papers/electra_base.py --data.path "data/wikibooks/*.jsonl.zst"
    lmjax compile configs/papers/electra_base.py --topology v5e:2x4

Data: documents as JSON lines with a field "text"; the authors use Wikipedia and BookCorpus. A byte-level BPE
tokenizer of 30k ids with <mask> is trained on them first. Whole documents are packed into rows of 512 and do not
see each other; the generator, a third as wide, fills in 15% of the tokens.

120M parameters, 109M of them the discriminator's. Cost: 766,000 steps of 256 rows are 100B tokens and 8e19 FLOPs,
about a day on eight A100s at 40% of their peak.

Expected: the authors report no pretraining loss; fine-tuned, their model averages 85.1 on the development sets of GLUE
(table 1). This recipe has not been run to its end here. The discriminator learns when its loss is below the entropy
of the share of replaced tokens, which is reported as `replaced`.

Settings of the paper's table 6; as in the authors' code, not its formula, the discriminator's head has a dense layer
before the last. Not as in the paper: a tokenizer that keeps case.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import ReplacedToken
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def electra_base() -> RunConfig:
    return RunConfig(
        name="electra_base",
        objective=ReplacedToken(rate=0.15, generator_ratio=1 / 3, discriminator_weight=50.0),
        model=ModelConfig(
            width=768,
            num_layers=12,
            num_heads=12,
            max_length=512,
            positions="learned",
            residual="post",
            final_norm=False,
            embedding_norm=True,
            norm="layernorm",
            norm_epsilon=1e-12,
            bias=True,
            head_bias=True,
            head_transform=True,
            residual_init="plain",
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
        optimizer=AdamW(learning_rate=2e-4, beta2=0.999, epsilon=1e-6, weight_decay=0.01, decay_embeddings=True),
        schedule=ScheduleConfig(kind="linear", warmup_steps=10_000),
        train=TrainConfig(steps=766_000, batch_size=256, sequence_length=512, eval_every=5000, eval_batches=50),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
