"""The words by which texts are compared: without case, punctuation, accents and the values of numbers."""

import re
from collections.abc import Callable

from lmjax.curate.rule import require

_WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|[^\s{_WITHOUT_SPACES}]+")


def make_words() -> Callable[[str], list[str]]:
    """Returns a function from a text to its words.

    The text is simplified as datatrove does it for MinHash. Words are what spaces divide; a character of a script that
    is written without spaces (Thai, Lao, Burmese, Khmer, Japanese, Chinese) is a word by itself.
    """
    simplify = require("datatrove.utils.text").simplify_text
    return lambda text: _WORD.findall(simplify(text))
