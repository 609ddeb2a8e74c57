"""Describes a tokenizer in words, and shows how it cuts a text into tokens."""

from lmjax.tokenizers.base import Tokenizer


def describe(tokenizer: Tokenizer, text: str | None = None) -> str:
    """Returns lines that describe ``tokenizer`` and, if ``text`` is given, a table of its tokens.

    The table has one row for each token: position, id, number of bytes, ``*`` where a word starts, and the text (or
    the bytes, where they are only a part of a character).
    """
    vocabulary = tokenizer.vocabulary
    names = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    special = ", ".join(f"{name}={token_id}" for name, token_id in names[:12])
    if len(names) > 12:
        special += f", ... {names[-1][0]}={names[-1][1]} ({len(names)} in all)"
    lines = [
        f"kind         {tokenizer.kind}",
        f"size         {vocabulary.size}",
        f"special      {special or 'none'}",
        f"lossless     {'yes' if tokenizer.lossless else 'no'}",
        f"fingerprint  {tokenizer.fingerprint[:16]}",
    ]
    if text is None:
        return "\n".join(lines)
    ids = tokenizer.encode(text).tolist()
    num_bytes = len(text.encode())
    ratio = num_bytes / max(len(ids), 1)
    lines += [
        f"text         {num_bytes} bytes, {len(ids)} tokens, {ratio:.2f} bytes a token",
        "",
        f"{'position':>8}  {'id':>7}  {'bytes':>5}  word  text",
    ]
    for position, token_id in enumerate(ids):
        starts = vocabulary.word_start_V is not None and vocabulary.word_start_V[token_id]
        token = tokenizer.token_bytes[token_id]
        lines.append(f"{position:>8}  {token_id:>7}  {len(token):>5}  {'*' if starts else '':^4}  {_readable(token)!r}")
    return "\n".join(lines)


def _readable(token: bytes) -> str | bytes:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return token
