"""EXIF orientation, read directly from IFD0: metadata libraries refuse whole files for damage elsewhere in the EXIF."""

from __future__ import annotations

import struct

_ORIENTATION_TAG = 274
_SHORT = 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
#: Bytes that precede the TIFF header in JPEG files, and in some PNG and WebP files.
EXIF_PREFIX = b"Exif\0\0"


def read_orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8) that EXIF data ask for; 1 where they are absent, damaged or say something else.

    Like browsers, it accepts only one SHORT in IFD0.
    """
    tiff = exif.removeprefix(EXIF_PREFIX)
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG and kind == _SHORT and count == 1:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # the IFD ends beyond the data
        pass
    return 1
