"""Recognises the panic of a library in Rust: an exception that ``except Exception`` does not catch."""


def is_panic(error: BaseException) -> bool:
    """Returns whether this is the panic of a library in Rust, such as `tokenizers` (pyo3's ``PanicException``)."""
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"
