"""A conversation with a run: what was said stays within the context, oldest turns go first."""

from collections.abc import Generator

from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.runs.chat_template import end_ids, find_template
from lmjax.runs.opened import Opened
from lmjax.runs.request import NEW_TOKENS, Request
from lmjax.runs.writing import stream_continuations
from lmjax.tokenizers.chat import Message
from lmjax.train.components import paired
from lmjax.train.prompts import prompt_ids


class Chat:
    """A conversation. With a chat template each answer is a message; without one, all is one text, line by line.

    Attributes:
      dropped: the number of turns that were left out so far, because the context is full.
    """

    def __init__(self, run: Opened, request: Request, *, system: str | None = None):
        """Begins a conversation.

        Args:
          run: the run that answers.
          request: how it writes; ``num_samples`` is 1.
          system: what the template puts before the conversation.

        Raises:
          ValueError: the run does not continue text; or there is a system message and no template.
        """
        objective = run.config.objective
        if paired(objective) is not None or isinstance(objective, MaskedDiffusion):
            raise ValueError(f"{run.folder}: a {type(objective).__name__} model does not continue a conversation")
        self._run, self._request, self._system = run, request, system
        self._template = find_template(run)
        self._end_ids = end_ids(run, self._template)
        if system is not None and self._template is None:
            raise ValueError(f"system: {run.folder} has no chat template, which says where it goes: leave it out")
        self._context = run.max_length or run.config.train.sequence_length
        self._turns: list[tuple[str, str]] = []
        self.dropped = 0

    def answer(self, message: str) -> Generator[str, None, None]:
        """Yields the answer to a message, while it is made. One that is broken off is remembered so far.

        Raises:
          ValueError: the message alone is too long for the context, or the template refuses it.
        """
        ids, room = self._fitting(message)
        request = self._request.with_limit(room)
        said = ""
        try:
            for piece in stream_continuations(self._run, [ids], request, end_ids=self._end_ids):
                said += piece.text
                if piece.text:
                    yield piece.text
        finally:
            self._turns.append((message, said))

    def _fitting(self, message: str) -> tuple[list[int], int]:
        """The ids of the conversation, without turns for which there is no room, and the room for the answer."""
        least = self._request.max_new_tokens or min(NEW_TOKENS, max(self._context // 4, 1))
        while True:
            ids = self._ids(message)
            if len(ids) + least <= self._context:
                return ids, self._request.max_new_tokens or min(NEW_TOKENS, self._context - len(ids))
            if not self._turns:
                raise ValueError(
                    f"the message makes {len(ids)} tokens, and with {least} for the answer more than the context of "
                    f"{self._context}: shorten it, or lower max_new_tokens"
                )
            del self._turns[0]
            self.dropped += 1

    def _ids(self, message: str) -> list[int]:
        if self._template is None:
            before = "".join(f"{said}\n{answer}\n" for said, answer in self._turns)
            return prompt_ids(self._run.config.data, self._run.tokenizer, f"{before}{message}\n")
        messages = [] if self._system is None else [Message("system", self._system)]
        for said, answer in self._turns:
            messages += [Message("user", said), Message("assistant", answer)]
        return self._template.ids(self._run.tokenizer, [*messages, Message("user", message)])
