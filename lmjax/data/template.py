"""A template of a document: text with the fields of a record in braces."""

import string


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """Returns pairs (text, the field after it or None); doubled braces are braces.

    Raises:
      ValueError: it names no field, or asks for more than the value of a field.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"data.template={template!r}: {error}: write fields in braces, and braces twice") from None
    for _, field, form, conversion in parts:
        if field is not None and (not field or form or conversion):
            raise ValueError(f"data.template={template!r}: only names of fields go in braces, as in {{title}}")
    if not any(field for _, field, _, _ in parts):
        raise ValueError(f"data.template={template!r} names no field: write one in braces, as in {{title}}")
    return [(text, field) for text, field, _, _ in parts]


def template_fields(template: str) -> tuple[str, ...]:
    """Returns the fields of a template, each once.

    Raises:
      ValueError: as :func:`template_parts`.
    """
    return tuple(dict.fromkeys(field for _, field in template_parts(template) if field is not None))
