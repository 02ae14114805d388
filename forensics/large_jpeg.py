"""Large JPEG files in parts: a smaller copy scaled in the DCT, and windows of the file's own pixels.

Of twelve megapixels the pipeline looks at one: a preview, the window of Error Level Analysis, and faces too small in
the preview. Each part reads the file's entropy code (a window's down to its last row) and transforms little of it.
Windows come from nvImageCodec's libjpeg-turbo decoder, which skips and crops; they are those of a whole decoding, to
the last digit.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from .pixels import Luma, Pixels, Region, cut, stored_region, to_luma, upright, upright_size
from .resize import PREVIEW_SIDE, to_preview

#: From this longest side on parts pay: a copy of half the size would save less than the windows cost.
LARGE_SIDE = 4 * PREVIEW_SIDE
#: Up to so many bits a pixel they do: at 0.8 to 1.3 preparing twelve megapixels takes a tenth less, at 1.8 as long, and
#: at 3.7 (a camera's own file) a tenth more, for there most of decoding is the entropy code, which each part reads.
MOST_BITS = 1.25
_thread = threading.local()
_loading = threading.Lock()


@cache
def _codec() -> Any:
    """Return the package nvImageCodec, with no extension but its JPEG decoder for CPUs.

    The others look for CUDA libraries as they load, and write errors where there are none.
    """
    setting = "NVIMGCODEC_EXTENSIONS_PATH"
    package = find_spec("nvidia.nvimgcodec")
    if package is None or package.origin is None:
        raise ImportError("nvImageCodec (nvidia-nvimgcodec-cu13) is not installed")
    extensions = Path(package.origin).parent / "extensions"
    with _loading, tempfile.TemporaryDirectory() as folder:
        for extension in extensions.glob("libjpeg_turbo_ext*"):
            (Path(folder) / extension.name).symlink_to(extension)
        before = os.environ.get(setting)
        os.environ[setting] = folder
        try:
            from nvidia import nvimgcodec
        finally:
            del os.environ[setting]
            if before is not None:
                os.environ[setting] = before
    return nvimgcodec


def pays(width: int, height: int, size: int) -> bool:
    """Return whether a JPEG file of ``size`` bytes, not progressive, is decoded faster in parts."""
    return max(width, height) >= LARGE_SIDE and 8 * size <= MOST_BITS * width * height


def _decoder() -> Any:
    """Return the calling thread's decoder; it decodes on that thread."""
    if not hasattr(_thread, "decoder"):
        codec = _codec()
        _thread.decoder = codec.Decoder(
            device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[codec.Backend(codec.CPU_ONLY)],
        )
    return _thread.decoder


def decode_region(data: bytes, region: Region, *, grey: bool = False) -> Pixels | None:
    """Return a region of a JPEG file as it is stored, [H, W, 3] or, with ``grey``, its luma [H, W, 1].

    None where the decoder cannot read the file. Only files that simplejpeg has read without a warning come here.
    """
    codec = _codec()
    x, y, width, height = region
    colours = codec.ColorSpec.GRAY if grey else codec.ColorSpec.SRGB
    part = codec.CodeStream(data).get_sub_code_stream(region=codec.Region(y, x, y + height, x + width))
    found = _decoder().decode(part, params=codec.DecodeParams(color_spec=colours, apply_exif_orientation=False))
    return None if found is None else np.asarray(found)


class LargeJpeg:
    """A JPEG file for which :func:`pays` holds, not progressive (every part would read all of its scans).

    What its methods return is what :class:`veridict.forensics.decode.Whole` returns, but for the preview, which is
    scaled in the DCT instead of averaged.
    """

    def __init__(self, data: bytes, width: int, height: int, orientation: int) -> None:
        """Decode the preview of a file whose picture is stored at ``width`` x ``height``.

        Raises:
            ValueError: the file is damaged.
        """
        self._data = data
        self._orientation = orientation
        self._size = upright_size(width, height, orientation)
        factor = 4 if max(width, height) < 2 * LARGE_SIDE else 8
        smaller = simplejpeg.decode_jpeg(data, min_width=-(-width // factor), min_height=-(-height // factor))
        self.preview: Pixels = to_preview(upright(smaller, orientation))

    @cached_property
    def pixels(self) -> Pixels:
        """All pixels [H, W, 3]; verdicts do without them."""
        return upright(simplejpeg.decode_jpeg(self._data), self._orientation)

    def luma(self, region: Region) -> Luma:
        """Return the luma [H, W] of a region of the file's own pixels."""
        found = self._decode(region, grey=True)
        return to_luma(cut(self.pixels, region)) if found is None else found[:, :, 0]

    def windows(self, regions: Sequence[Region], side: int) -> list[Pixels]:
        """Return the pixels of each region [H, W, 3], from the preview where that has ``side`` or more a side.

        The others are cut from one decoding of the rectangle about them.
        """
        copies = {region: self._in_preview(region) for region in regions}
        near = [region for region, copy in copies.items() if min(copy[2:]) < side]
        found = dict(zip(near, self._decode_together(near), strict=True))
        return [found[region] if region in found else cut(self.preview, copies[region]) for region in regions]

    def _in_preview(self, region: Region) -> Region:
        """Return where a region lies in the preview."""
        across, down = (small / side for small, side in zip(self.preview.shape[1::-1], self._size, strict=True))
        x, y, width, height = region
        return int(x * across), int(y * down), int(width * across), int(height * down)

    def _decode_together(self, regions: Sequence[Region]) -> list[Pixels]:
        if not regions:
            return []
        left, top = (min(region[i] for region in regions) for i in (0, 1))
        right, bottom = (max(region[i] + region[i + 2] for region in regions) for i in (0, 1))
        frame = (left, top, right - left, bottom - top)
        found = self._decode(frame)
        pixels = cut(self.pixels, frame) if found is None else found
        return [cut(pixels, (x - left, y - top, width, height)) for x, y, width, height in regions]

    def _decode(self, region: Region, *, grey: bool = False) -> Pixels | None:
        found = decode_region(self._data, stored_region(region, *self._size, self._orientation), grey=grey)
        return None if found is None else upright(found, self._orientation)
