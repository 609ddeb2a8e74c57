"""Reads a ``config.json`` of transformers so that no key goes unnoticed."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from lmjax.interop.hf_keys import NOT_READ, TRAINING, is_inert

_REQUIRED = object()

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "is_decoder": (False, None),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
}
"""For keys that any family may have: the values with which the key has no effect."""


@dataclasses.dataclass(frozen=True)
class Passed:
    """The keys of a ``config.json`` that were not taken over, with their values.

    Attributes:
      ignored: keys that the user asked to ignore.
      not_read: keys that the code of transformers for this ``model_type`` never reads, so that they change nothing.
      training_only: settings of dropout, initial values and losses for which our configuration has no field.
    """

    ignored: dict[str, Any] = dataclasses.field(default_factory=dict)
    not_read: dict[str, Any] = dataclasses.field(default_factory=dict)
    training_only: dict[str, Any] = dataclasses.field(default_factory=dict)


class HuggingFaceConfig:
    """The values of a ``config.json``.

    A family looks keys up, requires them to have a value, or declares them irrelevant. :meth:`finish` then refuses
    every key that could change the model and was not accounted for in one of these ways.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any],
        synonyms: Mapping[str, str] | None = None,
        ignore: Collection[str] = (),
        where: str = "config.json",
    ):
        """Wraps a JSON object.

        Args:
          values: the object.
          defaults: the values that transformers uses for keys that the object lacks.
          synonyms: from another name that transformers accepts for a key, to the key.
          ignore: keys to treat as if the file did not have them.
          where: the file, for messages.

        Raises:
          ValueError: a key to ignore is not there, or two names of one key have two values.
        """
        self._where = where
        self.passed = Passed(ignored={key: self._ignorable(key, values) for key in ignore})
        given = {key: value for key, value in values.items() if key not in self.passed.ignored}
        for name, key in (synonyms or {}).items():
            if name in given:
                value = given.pop(name)
                if given.setdefault(key, value) != value:
                    raise ValueError(
                        f"{where}: {name}={value!r} and {key}={given[key]!r} are two names of one thing: remove one"
                    )
        self.values: dict[str, Any] = {**defaults, **given}
        self._given = given.keys()
        self._defaults = defaults
        self._seen: set[str] = set()

    def _ignorable(self, key: str, values: Mapping[str, Any]) -> Any:
        if key == "model_type" or key not in values:
            raise ValueError(
                f"{self._where}: key {key!r} cannot be ignored, for "
                f"{'it says which family this is' if key == 'model_type' else 'the file has none of this name'}"
            )
        return values[key]

    def __contains__(self, key: str) -> bool:
        return key in self._given

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """Returns the value of ``key``, or the value that transformers uses when the file has none.

        Raises:
          ValueError: the key is missing and has no default.
        """
        self._seen.add(key)
        value = self.values.get(key, default)
        if value is _REQUIRED:
            raise ValueError(f"{self._where} has no {key!r}: download it again")
        return self._defaults.get(key) if value is None else value

    def choice(self, key: str, choices: dict[Any, Any], default: Any = _REQUIRED) -> Any:
        """Returns the entry of ``choices`` for the value of ``key``.

        Raises:
          ValueError: the value is none of the choices.
        """
        value = self.get(key, default)
        if not isinstance(value, str | bool | int | None) or value not in choices:
            raise self.refusal(key, value, f"known are {', '.join(str(choice) for choice in choices)}")
        return choices[value]

    def rate(self, key: str, *others: str) -> float:
        """Returns the dropout rate ``key``.

        Our configuration has no fields for the rates ``others``; those that differ from ``key`` go into ``passed``.
        """
        rate = self.get(key)
        for other in others:
            if (value := self.get(other)) != rate:
                self.passed.training_only[other] = value
        return rate

    def require(self, key: str, *allowed: Any) -> None:
        """Refuses ``key`` unless it is missing, null or one of ``allowed``.

        Raises:
          ValueError: the value is something else.
        """
        self._seen.add(key)
        value = self.values.get(key)
        if value is not None and value not in allowed:
            raise self.refusal(key, value, f"only {allowed[0]!r} is")

    def ignore(self, *keys: str) -> None:
        """Declares keys that do not matter to the model."""
        self._seen.update(keys)

    def refusal(self, key: str, value: Any, detail: str) -> ValueError:
        """Returns the error for a value that is not implemented."""
        return ValueError(f"{self._where}: {key}={value!r} is not implemented by lmjax ({detail})")

    def finish(self) -> None:
        """Refuses keys that nobody has asked for, except those known to change nothing.

        Keys that are passed over but worth a note are put into ``passed``.

        Raises:
          ValueError: there are such keys; the message names all of them.
        """
        for key, allowed in _NEUTRAL.items():
            if key not in self._seen:
                self.require(key, *allowed)
        unknown = []
        for key in sorted(self._given - self._seen):
            value = self.values[key]
            if is_inert(key) or value is None:
                continue
            if TRAINING.search(key):
                if value not in (0, False):
                    self.passed.training_only[key] = value
            elif key in NOT_READ:
                self.passed.not_read[key] = value
            else:
                unknown.append(key)
        if unknown:
            named = ", ".join(f"{key}={self.values[key]!r}" for key in unknown)
            raise ValueError(
                f"{self._where}: lmjax does not know what {named} {'means' if len(unknown) == 1 else 'mean'} for this "
                f"model_type: if {'it does' if len(unknown) == 1 else 'they do'} not change what the model computes, "
                f"pass --ignore {' '.join(unknown)}"
            )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      ValueError: the file is missing, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path.parent} has no {path.name}: give the folder of a Hugging Face model") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: download it again")
    return value
