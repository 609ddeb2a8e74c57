"""BART base (Lewis et al. 2020): documents with gaps and shuffled sentences in, the documents as they were out.

    lmjax train configs/papers/bart_base.py --data.path "data/roberta/*.jsonl.zst"
    lmjax compile configs/papers/bart_base.py --topology v5e:4x4 --train.microbatches 50

Data: documents as JSON lines with a field "text"; the paper uses the 160 GB of news, books, stories and web text
of RoBERTa. A byte-level BPE tokenizer of GPT-2's size with <mask> is trained on them first. Documents are packed
into rows of 512 and do not see each other; 30% of their tokens are covered by spans of 3 on average that become
one mask each, and their sentences are put in random order.

139M parameters. Cost: 500,000 steps of 8,000 rows are 2.0T tokens read and 1.9e21 FLOPs, about 22 days on eight
A100s at 40% of their peak.

Expected: the paper reports scores after fine-tuning only. This recipe has not been run to its end here.

From section 5 of the paper: noise, steps and batch, which are those of its large model. The optimizer's figures are
RoBERTa base's, which the paper follows without naming its own. Not as in the paper: dropout stays on in the last
tenth of the steps.
"""

from lmjax.corruption import DenoiseConfig
from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import Denoising
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def bart_base() -> RunConfig:
    return RunConfig(
        name="bart_base",
        objective=Denoising(noise=DenoiseConfig(infill=0.3, infill_mean=3.0, permute_sentences=True)),
        model=ModelConfig(
            width=768,
            encoder_layers=6,
            num_layers=6,
            num_heads=12,
            max_length=1024,
            positions="learned",
            residual="post",
            activation="gelu",
            norm="layernorm",
            final_norm=False,
            embedding_norm=True,
            bias=True,
            dropout=0.1,
            attention_dropout=0.1,
            residual_init="plain",
            execution=ExecutionConfig(dtype="bfloat16"),
        ),
        tokenizer=TokenizerConfig(
            kind="bpe",
            vocab_size=50_265,
            special_tokens=("<s>", "<pad>", "</s>", "<mask>"),
            max_train_bytes=200_000_000,
        ),
        data=DataConfig(path="data/roberta/*.jsonl.zst", packing="best_fit", add_bos=True, valid_fraction=0.0005),
        optimizer=AdamW(
            learning_rate=6e-4, beta2=0.98, epsilon=1e-6, weight_decay=0.01, decay_embeddings=True, clip_norm=None
        ),
        schedule=ScheduleConfig(kind="linear", warmup_steps=24_000),
        train=TrainConfig(
            steps=500_000, batch_size=8000, sequence_length=512, microbatches=4, eval_every=5000, eval_batches=5
        ),
        mesh=MeshConfig(data=-1),
        checkpoint=CheckpointConfig(every_steps=2500, keep_every=50_000),
    )
