"""Bad options of a plug-in, told by lerobot's programs in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refused(option: str) -> Iterator[None]:
    """Turn a KeyError or ValueError of the block into lerobot's own: "error: `option`: ...", exit code 1, no traceback."""
    from draccus.utils import DecodingError

    try:
        yield
    except (KeyError, ValueError) as error:
        raise DecodingError((option,), " ".join(str(error.args[0] if error.args else error).split())) from None
