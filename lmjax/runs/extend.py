"""Making a run whose tokenizer has more tokens than another's."""

import dataclasses
import pathlib
from collections.abc import Sequence

from lmjax.models.vocabulary import extend_vocabulary
from lmjax.naming import naming
from lmjax.parallel.folder_lock import fresh_folder
from lmjax.runs.new_run import make_run
from lmjax.runs.opened import Opened
from lmjax.tokenizers import Tokenizer, TokenizerConfig
from lmjax.tokenizers.extend import extend_tokenizer
from lmjax.train.config import RunConfig
from lmjax.train.published import hand_on_published
from lmjax.train.run_folder import TOKENIZER


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extended:
    """A run with a larger vocabulary.

    Attributes:
      config: its configuration.
      tokenizer: its tokenizer.
    """

    config: RunConfig
    tokenizer: Tokenizer


def extend(run: Opened, folder: pathlib.Path | str, tokens: Sequence[str], *, named: str = "tokens") -> Extended:
    """Makes a run, at step 0, of a run's weights and a tokenizer with more tokens.

    A new token begins as the mean of the tokens that its text was written with before.

    Args:
      run: the run to begin with, see :func:`lmjax.runs.open`.
      folder: the run folder to make.
      tokens: the new tokens.
      named: what to call the tokens in messages, such as the file they are from.

    Raises:
      ValueError: the tokenizer cannot be extended by these tokens, or the folder is not empty.
    """
    folder = pathlib.Path(folder)
    with fresh_folder(folder, "is being made"):
        with naming(named):
            tokenizer, pieces = extend_tokenizer(run.tokenizer, tokens)
        model = run.config.model
        size = max(model.vocab_size, -(-tokenizer.vocabulary.size // model.pad_vocab_to) * model.pad_vocab_to)
        params = extend_vocabulary(run.params, run.spec.axes, pieces=pieces, vocab_size=size)
        config = dataclasses.replace(
            run.config,
            name=folder.name,
            folder=str(folder),
            model=dataclasses.replace(model, vocab_size=size),
            tokenizer=TokenizerConfig(path=str(folder / TOKENIZER)),
        )
        hand_on_published(run.folder, folder)
        make_run(folder, config, tokenizer, params)
    return Extended(config=config, tokenizer=tokenizer)
