"""`corpus.py audit`: identifiers in finished folders, shown masked."""

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from launch.corpus_commands.shared import Commands, command
from medclm.corpus.audit import Finding, audit
from medclm.data.manifest import write_json

IDENTIFIER_FOUND = 5
_SHOWN = 60

_AUDIT_EXAMPLES = """examples:
  before a corpus or a run leaves the machine:
    corpus.py audit corpora/chest runs/chest --identifiers patients.txt --json audit.json
  shapes of your own:
    corpus.py audit corpora/chest --pattern 'KH-[0-9]{6}' --digits 6
patients.txt holds one identifier a line (names, record and accession numbers, birth dates), at least 3 characters each. They
are found in any case, with separators removed, escaped, in UTF-16, as base64 and as hex; numbers as whole numbers.
Searched without a list: DICOM UIDs, dates, e-mail addresses, phone numbers, absolute paths, ages over 89, names as DICOM
writes them, long numbers, EXIF and text in pictures, keys. Opened: Arrow, Parquet, SQLite, zip (also .pt), gzip, bzip2, xz,
safetensors headers, base64 in pages. Text burned into pixels is not read. What cannot be opened is named, not passed over.
Findings show shapes only (letters x, digits 9). Exit codes: 0 clean, 5 something found, 2 a mistake in what was asked."""


def add(commands: Commands) -> None:
    parser = command(commands, "audit", "identifiers in corpora, reports and runs", _AUDIT_EXAMPLES, _audit)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="searched with everything below")
    parser.add_argument("--identifiers", type=Path, metavar="FILE", help="what must not occur, one a line")
    parser.add_argument("--pattern", action="append", default=[], metavar="REGEX", help="a shape of your own; repeatable")
    parser.add_argument(
        "--digits", type=int, default=7, metavar="N", help="fewest digits of a suspicious number (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")


def _audit(args: argparse.Namespace) -> int:
    listed = read_identifiers(args.identifiers) if args.identifiers else []
    findings = audit(args.folders, listed, extra_patterns=args.pattern, long_number=args.digits, progress=True)
    if args.json:
        counts = dict(sorted(Counter(finding.kind for finding in findings).items()))
        write_json(args.json, {"counts": counts, "findings": [asdict(finding) for finding in findings]})
    _print(findings, len(args.folders), len(listed))
    return IDENTIFIER_FOUND if findings else 0


def read_identifiers(path: Path) -> list[str]:
    """Lines of the list; empty lines are refused like short ones, so that line numbers stay true.

    Raises:
        ValueError: unreadable, empty, or a line too short; names the line, never its text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"--identifiers {path}: {reason}: give a text file with one identifier a line") from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"--identifiers {path}: holds no identifier: give one a line")
    for number, line in enumerate(lines, 1):
        if len(line.strip()) < 3:
            raise ValueError(
                f"--identifiers {path}:{number}: fewer than 3 characters would be found everywhere: remove the line"
            )
    return lines


def _print(findings: list[Finding], folders: int, listed: int) -> None:
    rows = [
        (
            f"{finding.folder + 1}: {finding.file}" if folders > 1 else finding.file,
            finding.place,
            finding.kind if finding.identifier is None else f"identifier {finding.identifier}",
            finding.excerpt,
        )
        for finding in findings
    ]
    widths = [max((len(row[column]) for row in rows[:_SHOWN]), default=0) for column in range(3)]
    for row in rows[:_SHOWN]:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    if len(rows) > _SHOWN:
        print(f"and {len(rows) - _SHOWN} more (--json FILE holds all)")
    kinds = Counter(finding.kind for finding in findings)
    summary = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "nothing found"
    print(f"{summary}; looked for {listed} identifiers and the shapes of identifiers")
