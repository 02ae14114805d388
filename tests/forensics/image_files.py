"""Image files assembled by hand: JPEG segments, PNG chunks, EXIF data, ICC profiles, JPEGs of many scans."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

#: Colorants (XYZ under D50) of red, green and blue.
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def save(pixels, form, **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def segment(marker, body):
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segment(jpeg, part):
    return jpeg[:2] + part + jpeg[2:]


def chunk(kind, body, crc=None):
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def with_chunk(png, part):
    """Return the PNG with a chunk after IHDR."""
    return png[:33] + part + png[33:]


def exif(*entries, order="<"):
    """Return EXIF data whose IFD0 has entries (tag, type, count, value)."""
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count) + (
            struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        )
    return b"Exif\0\0" + (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8) + body + bytes(4)


def orientation(value):
    return exif((274, 3, 1, value))


def profile(gamma, colorants=SRGB):
    """Return an ICC profile (version 2) for RGB, or for grey where ``colorants`` is None."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    white = xyz((0.9642, 1.0, 0.8249))
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": white}
    if colorants is None:
        tags[b"kTRC"] = curve
    else:
        tags |= {name + b"XYZ": xyz(value) for name, value in zip((b"r", b"g", b"b"), colorants, strict=True)}
        tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(body))
        data += body
    space = b"RGB " if colorants else b"GRAY"
    head = struct.pack(">I", 128 + len(table) + len(data)) + bytes(4) + b"\x02\x10\0\0mntr" + space + b"XYZ "
    return (head + bytes(12) + b"acsp" + bytes(28) + white[8:]).ljust(128, b"\0") + table + data


def many_scans(width, height, scans):
    """Return a valid progressive grey JPEG whose AC scans say in a few bytes that every block is empty."""

    def pack(bits):
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    blocks = -(-width // 8) * -(-height // 8)
    left, runs = blocks, ""
    while left:
        run = min(left, (1 << 15) - 1)
        bits = run.bit_length() - 1
        runs += format(14 - bits, "04b") + (format(run - (1 << bits), f"0{bits}b") if bits else "")
        left -= run
    start = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([16] * 64))
    start += segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + bytes((1, 0x11, 0)))
    start += segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0")
    start += segment(0xC4, b"\x10" + bytes([0, 0, 0, 15] + [0] * 12) + bytes(k << 4 for k in range(14, -1, -1)))
    direct = segment(0xDA, bytes((1, 1, 0, 0, 0, 0))) + pack("0" * blocks)
    return start + direct + (segment(0xDA, bytes((1, 1, 0, 1, 63, 0))) + pack(runs)) * scans + b"\xff\xd9"


def animation(pixels, hidden, left=0, top=0):
    """Return an APNG of one frame, after a default image [H, W, 3] that is not part of the animation."""

    def data(frame):
        rows = np.pad(frame.reshape(len(frame), -1), ((0, 0), (1, 0)))
        return zlib.compress(rows.tobytes())

    height, width = hidden.shape[:2]
    control = struct.pack(">5I", 0, pixels.shape[1], pixels.shape[0], left, top) + struct.pack(">HHBB", 1, 2, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"acTL", struct.pack(">II", 1, 0))
        + chunk(b"IDAT", data(hidden))
        + chunk(b"fcTL", control)
        + chunk(b"fdAT", struct.pack(">I", 1) + data(pixels))
        + chunk(b"IEND", b"")
    )
