"""Professor forcing (Lamb et al. 2016) of characters of the Penn Treebank.

    lmjax train configs/papers/professor_forcing.py --data.path "data/ptb/*.txt"
    lmjax compile configs/papers/professor_forcing.py --topology v5e:2x4

Data: the character-level Penn Treebank as text files, 5M characters for training; bytes stand for characters. As
in the paper's section 4.2: sequences of 500, Adam at 1e-4, the discriminator heard above an accuracy of 0.75 and
trained below 0.99.

19.5M parameters. Cost: 30,000 steps of 32,000 characters, about 190 times through the text; a step's 100 samples
are drawn one after the other and take most of its time, some hours on one A100.

Expected: the paper reports 1.48 bits a character with professor forcing and 1.50 without. Those figures are
theirs; this recipe has not been run to its end here.

Not as in the paper: a transformer of four layers stands in for one layer of 1024 GRUs and two of its blocks for the
bidirectional GRU of 2048; the discriminator reads states only, not outputs; 100 characters are sampled after a
prompt of 100, not the whole sequence.
"""

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.objectives import ProfessorForcing
from lmjax.schedules import ScheduleConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.optimizers import AdamW


def professor_forcing() -> RunConfig:
    return RunConfig(
        name="professor_forcing",
        objective=ProfessorForcing(
            prompt_length=100, free_tokens=100, discriminator_layers=2, discriminator_below=0.99, fooling_above=0.75
        ),
        model=ModelConfig(width=512, num_layers=4, num_heads=8, dropout=0.1),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path="data/ptb/*.txt", split="tail", valid_fraction=0.07),
        optimizer=AdamW(learning_rate=1e-4, beta2=0.999, weight_decay=0.0),
        schedule=ScheduleConfig(kind="constant"),
        train=TrainConfig(steps=30_000, batch_size=64, sequence_length=500, eval_every=1000, eval_batches=0),
        checkpoint=CheckpointConfig(every_steps=1000),
    )
