"""Text that arrives a few tokens at a time: whole characters only, up to a stop string."""

import codecs
from collections.abc import Callable, Collection, Sequence


class Pieces:
    """The text of one continuation, handed out as soon as it is certain.

    What is handed out never ends in half of a UTF-8 character, and never in what may become a stop string.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], bytes], stop: Sequence[str] = (), end_ids: Collection[int] = ()
    ):
        """Begins without tokens.

        Args:
          decode: the bytes of token ids that follow the prompt.
          stop: strings that end the text; they are not part of it.
          end_ids: token ids that end the text, beside the tokenizer's end of text.
        """
        self._end_ids = frozenset(end_ids)
        self.ended = False
        self._decode, self._stop = decode, [string for string in stop if string]
        self._ids: list[int] = []
        self._bytes = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, ids: Sequence[int]) -> str:
        """Returns the text that has become certain with further token ids."""
        if self.ended or not len(ids):
            return ""
        end = next((place for place, token_id in enumerate(ids) if token_id in self._end_ids), None)
        if end is not None:
            return self.add(ids[:end]) + self.finish()
        self._ids += ids
        whole = self._decode(self._ids)
        if not whole.startswith(self._bytes):
            # The last tokens read otherwise together with the new ones; the next call sees how they go on.
            return ""
        new, self._bytes = whole[len(self._bytes) :], whole
        return self._pass_on(self._decoder.decode(new))

    def finish(self) -> str:
        """Ends the text and returns what was held back of it."""
        if self.ended:
            return ""
        rest = self._decode(self._ids)[len(self._bytes) :]
        text = self._pass_on(self._decoder.decode(rest, final=True))
        self.ended = True
        return text + self._held

    def _pass_on(self, text: str) -> str:
        text = self._held + text
        places = [place for string in self._stop if (place := text.find(string)) >= 0]
        if places:
            self.ended, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, string) for string in self._stop), default=0)
        text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` with which ``stop`` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
