"""The special tokens that stand around a text when a run's model reads it."""

from lmjax.interop.tokenizer_export import Marks
from lmjax.objectives import SentencePairs
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.runs.opened import Opened
from lmjax.train.published import PUBLISHED


def text_marks(run: Opened) -> Marks:
    """Returns the special tokens that the model has met around a text.

    The end of text after a decoder's text is left out, because it would end every prompt.
    """
    vocabulary, data, objective = run.tokenizer.vocabulary, run.config.data, run.config.objective
    of_others = run.imported or (run.folder / PUBLISHED).is_dir()
    is_encoder = objective.traits.attention == "bidirectional" and not objective.traits.reads_with_encoder
    is_decoder = not is_encoder and not objective.traits.reads_with_encoder
    if isinstance(objective, SentencePairs) or (of_others and is_encoder):
        return Marks(before=vocabulary.cls_id, after=vocabulary.sep_id)
    ends = data.add_eos and data.packing != "windows"
    ends = ends or (isinstance(objective, EncoderDecoderObjective) and objective.ends_input)
    return Marks(
        before=vocabulary.bos_id if data.add_bos else None,
        after=vocabulary.eos_id if ends and not is_decoder else None,
    )
