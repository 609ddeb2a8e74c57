"""BERT large trained by masking whole words (Devlin et al. 2019, as released in May 2019).

    lmjax train configs/papers/whole_word_large.py --data.path "data/wikibooks/*.jsonl.zst"
    lmjax compile configs/papers/whole_word_large.py --topology v5e:4x4

Data: documents as JSON lines with a field "text"; the authors use Wikipedia and BookCorpus. A byte-level BPE
tokenizer of 30k ids with <mask> is trained on them first; a word is what stands between white space. Whole
documents are packed into rows and do not see each other; 15% of the words are predicted, others in every epoch.

334M parameters. Cost: 1,000,000 steps of 256 rows, the first nine tenths of them 128 tokens long and the others
512, are 43B tokens and 8e19 FLOPs, about a day on eight A100s at 40% of their peak.

Expected: the authors report no pretraining loss; fine-tuned on SQuAD 1.1 their model has an F1 of 92.8 (without
whole words: 91.0). This recipe has not been run to its end here.

Not as in the release: words are drawn anew at every step, and not ten times before; no next-sentence
prediction, and so no segment embeddings; a tokenizer that keeps case.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import WholeWordMaskedLM
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def whole_word_large() -> RunConfig:
    return RunConfig(
        name="whole_word_large",
        objective=WholeWordMaskedLM(rate=0.15, mask_fraction=0.8, random_fraction=0.1),
        model=ModelConfig(
            width=1024,
            num_layers=24,
            num_heads=16,
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
        optimizer=AdamW(learning_rate=1e-4, beta2=0.999, epsilon=1e-6, weight_decay=0.01, decay_embeddings=True),
        schedule=ScheduleConfig(kind="linear", warmup_steps=10_000),
        train=TrainConfig(
            steps=1_000_000,
            batch_size=256,
            sequence_length=512,
            sequence_warmup=((900_000, 128),),
            warmup_keeps="rows",
            eval_every=5000,
            eval_batches=50,
        ),
        checkpoint=CheckpointConfig(every_steps=5000, keep_every=100_000),
    )
