"""Coverage-guided fuzzing of decoding and forensics with atheris: ``python -m veridict.loadtests.hostile.fuzz``.

The arguments are libFuzzer's: folders of corpora, of which the first gets new files, and options. A finding ends the
run: an exception without a code, or more than the ``-timeout``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from .assemble import PNG_MAGIC
from .generator import hostile_images
from .mutants import with_right_checksums

#: Largest file of the generated corpus in bytes.
_MOST = 3000
#: The limit of pixels while fuzzing: larger images only take longer.
_MOST_PIXELS = 1_000_000


def write_corpus(folder: Path) -> int:
    """Write the smallest hostile images as files to begin with, and return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for kind in hostile_images():
        if 0 < len(kind.data) <= _MOST:
            (folder / f"kind-{count:03}").write_bytes(kind.data)
            count += 1
    return count


def run_fuzzer(arguments: Sequence[str]) -> None:
    """Fuzz until a finding, or as long as the options say."""
    import atheris

    importlib.import_module("veridict.forensics")  # its modules are instrumented, so they are imported after atheris
    with atheris.instrument_imports(include=["veridict.forensics"]):
        served = importlib.import_module("veridict.loadtests.hostile.served")
        limits = importlib.import_module("veridict.forensics.decode").Limits(max_pixels=_MOST_PIXELS)
        errors = importlib.import_module("veridict.forensics.errors")

    def check(data: bytes) -> None:
        try:
            served.prepare_as_served(data, limits)
        except errors.ImageError as error:
            if error.code not in errors.CODES:
                raise ValueError(f"unknown code {error.code}") from error

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        """Set the checksums of a PNG right, since wrong ones hide the change from the decoder."""
        changed = bytes(atheris.Mutate(data, most))
        repaired = with_right_checksums(changed) if changed.startswith(PNG_MAGIC) else changed
        return repaired if len(repaired) <= most else changed

    atheris.Setup([sys.argv[0], *arguments], check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-corpus"]:
        print(write_corpus(Path(sys.argv[2])), "files")
    else:
        run_fuzzer(sys.argv[1:])
