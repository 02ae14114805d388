"""``veridict banks``: checks, hashes, imports and exports banks of known pictures."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from veridict.forensics.decode import decode_image
from veridict.forensics.errors import ImageError
from veridict.forensics.known_content.bank_files import FIELDS, READERS, BankError, read_entries, write_csv
from veridict.forensics.known_content.banks import Bank, Banks, find_bank_files, place_for_bank, read_bank
from veridict.forensics.known_content.pdq import hash_pixels
from veridict.forensics.known_content.threatexchange import write_descriptors
from veridict.forensics.policy import KnownContentPolicy
from veridict.forensics.preprocess import shrink_for_views


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="read a folder of banks as the server does, and name every problem")
    check.add_argument("folder", type=Path, help="folder with DISPOSITION/NAME.csv, .txt, .jsonl or .json")
    hashes = actions.add_parser("hash", help="print the PDQ hashes of image files as a bank in CSV")
    hashes.add_argument("files", nargs="+", type=Path, metavar="FILE")
    hashes.add_argument("--label", default="", help="label of every entry")
    hashes.add_argument("--low-quality", action="store_true", help="print hashes that are of too little quality, too")
    take = actions.add_parser("import", help="read known hashes of any form and add them to a folder as a bank in CSV")
    take.add_argument("file", type=Path, help=f"a file that ends with {', '.join(READERS)} (ThreatExchange JSON)")
    take.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="folder of banks; made where missing")
    take.add_argument("--disposition", required=True, help="what the pictures are: deepfake, real or a word of yours")
    take.add_argument("--name", default="", help="name of the bank (default: the file's); one that exists is replaced")
    export = actions.add_parser("export", help="print a bank as ThreatExchange JSON")
    export.add_argument("file", type=Path, help="a file of a folder of banks")


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked; return 0, or 1 where a file cannot be used."""
    try:
        return int(_ACTIONS[arguments.action](arguments))
    except (BankError, OSError) as error:
        print(f"veridict banks: {error}", file=sys.stderr)
        return 1


def _check(arguments: argparse.Namespace) -> int:
    banks: list[Bank] = []
    sound = True
    for path, problem in find_bank_files(arguments.folder):
        try:
            if problem:
                raise BankError(path, [problem])
            bank = read_bank(path)
        except BankError as error:
            print(f"veridict banks: {error}", file=sys.stderr)
            sound = False
            continue
        banks.append(bank)
        print(f"{bank.disposition}/{bank.name}: {len(bank.entries)} entries{_skipped(bank)}")
    built = Banks(banks)
    print(f"{len(built)} entries in {len(banks)} banks, version {built.version}")
    return 0 if sound else 1


def _skipped(bank: Bank) -> str:
    return "".join(f", {count} {reason} skipped" for reason, count in sorted(bank.entries.skipped.items()))


def _hash(arguments: argparse.Namespace) -> int:
    least = 0 if arguments.low_quality else KnownContentPolicy().quality
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(FIELDS)
    failed = False
    for path in arguments.files:
        try:
            decoded = decode_image(path.read_bytes())
        except (ImageError, OSError) as error:
            print(f"veridict banks: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        found = hash_pixels(shrink_for_views(decoded.preview), (decoded.width, decoded.height))
        if found.quality < least:
            print(f"veridict banks: {path}: quality {found.quality}, too little to match by", file=sys.stderr)
            failed = True
            continue
        writer.writerow((found.hex, path.name, arguments.label, found.quality))
    return 1 if failed else 0


def _import(arguments: argparse.Namespace) -> int:
    target = place_for_bank(arguments.into, arguments.disposition, arguments.name or arguments.file.stem)
    entries = read_entries(arguments.file)
    write_csv(target, entries)
    print(f"{target}: {len(entries)} entries{_skipped(Bank(target.stem, arguments.disposition, entries))}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    bank = read_bank(arguments.file)
    sys.stdout.write(write_descriptors(bank.entries, bank.disposition))
    return 0


_ACTIONS = {"check": _check, "hash": _hash, "import": _import, "export": _export}
