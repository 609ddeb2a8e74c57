"""What a library in Rust raises when its code gives up: an exception that ``except Exception`` does not catch."""


def is_panic(error: BaseException) -> bool:
    """Whether this is the panic of a library in Rust, such as a tokenizer's (pyo3's ``PanicException``)."""
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"
