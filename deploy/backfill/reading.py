"""Reading one image of a backfill: from a local path, or from a URL through fsspec."""

from __future__ import annotations

from pathlib import Path

import fsspec

from veridict.forensics.decode import Limits
from veridict.forensics.errors import ImageError

from .patience import Patience
from .results import Failure

_MOST = Limits().max_bytes


def read_source(source: str, patience: Patience) -> bytes | Failure:
    """Return the bytes of an image, or why there are none.

    A missing or forbidden file and one above the detector's size limit fail at once. Other errors are taken for a store
    that is away for a while.

    Raises:
        BackfillError: the store has answered about no image for as long as ``patience`` lasts.
    """
    began, tries = patience.now(), 0
    while True:
        try:
            data = _read(source)
            patience.answered()
        except FileNotFoundError:
            return Failure("read.not_found", "there is no such file")
        except PermissionError:
            return Failure("read.forbidden", "the file may not be read")
        except (ValueError, ImportError) as error:  # a name that no filesystem takes
            return Failure("read.failed", f"{type(error).__name__}: {error}")
        except Exception as error:  # every object store has its own exception types
            tries += 1
            if patience.wait(began, tries, error):
                continue
            return Failure("read.failed", f"{type(error).__name__}: {error}")
        if len(data) > _MOST:
            refused = ImageError("image.too_large", f"more than {_MOST} bytes")
            return Failure(refused.code, refused.message)
        return data


def _read(source: str) -> bytes:
    """Return the file, of a larger one its first bytes: one more than the limit."""
    scheme, found, _ = source.partition("://")
    if found:
        filesystem = fsspec.filesystem(scheme)
        if filesystem.size(source) == 0:  # object stores refuse the range of an empty object
            return b""
        return bytes(filesystem.cat_file(source, start=0, end=_MOST + 1))
    path = Path(source)
    if path.exists() and not path.is_file():  # reading a pipe would never end
        raise ValueError("not a regular file")
    with path.open("rb") as stream:
        return stream.read(_MOST + 1)
