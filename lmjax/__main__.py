"""`python -m lmjax` is `lmjax`."""

from lmjax.cli.main import main

if __name__ == "__main__":
    main()
