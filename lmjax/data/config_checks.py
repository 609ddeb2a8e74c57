"""Checks that the values of a configuration of data are possible and fit together.

:class:`lmjax.data.config.DataConfig` runs these checks when it is made.
"""

import pathlib
from typing import Any

from lmjax.data.mixing import check_mixing
from lmjax.data.template import template_parts
from lmjax.field_types import check_literals
from lmjax.parallel.paths import refuse_address
from lmjax.remote.address import stored_address


def check_data_config(config: Any) -> None:
    """Refuses data that cannot be prepared or read in this way.

    Args:
      config: a ``DataConfig``; it is not named as the type, because its module imports this one.

    Raises:
      ValueError: a value is not possible; the message names the field, its value and the remedy.
    """
    check_literals(config, "data.")
    if not config.path:
        raise ValueError('data.path="": name a file, a folder or a glob, or "stdlib"')
    _check_addresses(config)
    if not 0.0 <= config.valid_fraction < 1.0:
        raise ValueError(f"data.valid_fraction={config.valid_fraction}: must be at least 0 and below 1")
    if config.shard_bytes < 1:
        raise ValueError(f"data.shard_bytes={config.shard_bytes}: must be at least 1")
    if not 0.0 <= config.max_undecodable <= 1.0:
        raise ValueError(f"data.max_undecodable={config.max_undecodable}: must be from 0 to 1")
    if config.read_threads < 0:
        raise ValueError(f"data.read_threads={config.read_threads}: must not be negative")
    if not config.cache_gigabytes > 0:
        raise ValueError(f"data.cache_gigabytes={config.cache_gigabytes}: must be above 0")
    if config.max_record_bytes < 1:
        raise ValueError(f"data.max_record_bytes={config.max_record_bytes}: must be at least 1")
    if not config.max_expansion >= 1.0:
        raise ValueError(f"data.max_expansion={config.max_expansion}: must be at least 1")
    if config.document_separator == "":
        raise ValueError('data.document_separator="": give some text, or None for one document a file')
    if config.cut_files and config.document_separator is not None:
        raise ValueError("data.cut_files is for text without data.document_separator: keep one of them")
    _check_document_glob(config)
    if config.split == "tail" and config.weighted:
        raise ValueError("data.split=tail cannot divide prompts from responses: use data.split=document")
    _check_fill_in_middle(config)
    _check_template(config)
    _check_messages(config)
    _check_members(config)
    check_mixing(config)


def _check_addresses(config: Any) -> None:
    for name, path in (("prepared", config.prepared), *(("mixture", p) for p in config.mixture)):
        if stored_address(path) is None:
            refuse_address(f"data.{name}", path)
    if config.sources and stored_address(config.prepared) is not None:
        raise ValueError(
            f"data.prepared={config.prepared} is an address, and there are several sources: give each of "
            f"data.sources the address of its own prepared data"
        )


def _check_document_glob(config: Any) -> None:
    parts = pathlib.PurePath(config.document_glob).parts
    if not parts or ".." in parts or pathlib.PurePath(config.document_glob).is_absolute():
        raise ValueError(
            f"data.document_glob={config.document_glob!r}: must name files below the folder data.path, as in **/*.txt"
        )


def _check_fill_in_middle(config: Any) -> None:
    for name in ("fim_rate", "fim_spm_fraction"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"data.{name}={getattr(config, name)}: must be from 0 to 1")
    if len(config.fim_markers) != 3 or len(set(config.fim_markers)) < 3:
        raise ValueError(f"data.fim_markers={config.fim_markers}: name three tokens that differ")
    for name in ("prompt_field", "weight_field", "messages_field", "members"):
        if config.fim_rate and getattr(config, name):
            raise ValueError(
                f"data.fim_rate={config.fim_rate} would cut through what data.{name}={getattr(config, name)!r} keeps "
                f"apart: set one of them only"
            )


def _check_template(config: Any) -> None:
    if config.template is None:
        return
    for name, unset in (("text_field", "text"), ("weight_field", None), ("members", ())):
        if getattr(config, name) != unset:
            raise ValueError(f"data.template and data.{name}={getattr(config, name)!r} are both given: keep one")
    template_parts(config.template)


def _check_messages(config: Any) -> None:
    refuse_address("data.chat_template", config.chat_template)
    if config.messages_field is None:
        if config.chat_template != "roles":
            raise ValueError(f"data.chat_template={config.chat_template!r} is for messages: set data.messages_field")
        return
    for name, unset in (("text_field", "text"), ("template", None), ("prompt_field", None), ("weight_field", None),
                        ("members", ())):  # fmt: skip
        if getattr(config, name) != unset:
            raise ValueError(f"data.messages_field and data.{name}={getattr(config, name)!r} are both given: keep one")


def _check_members(config: Any) -> None:
    if not config.members:
        return
    if len(set(config.members)) < max(len(config.members), 2) or "" in config.members:
        raise ValueError(f"data.members={config.members}: name two fields or more, each once")
    if config.packing != "examples":
        raise ValueError(
            f"data.packing={config.packing!r} would tear apart the texts of data.members={config.members}: set it "
            f"to examples"
        )
    if config.weight_field is not None:
        raise ValueError(
            f"data.weight_field={config.weight_field!r} does not go with data.members: the texts of an example have "
            f"weight 1; leave it out"
        )
    if config.split == "tail":
        raise ValueError("data.split=tail would cut through the texts of data.members: use data.split=document")
