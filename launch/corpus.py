"""Make, read and write corpora: annotated pictures or a published JSON <-> Arrow shards.

    python launch/corpus.py phantoms --count 4000 --seed 0 --out corpora/phantoms
    python launch/corpus.py build --source coco --annotations boxes.json --image-root images --modality MR --out corpora/brats
    python launch/corpus.py build --source voc --annotations xml --image-root images --modality SM --out corpora/cells --dry-run
    python launch/corpus.py import train.json --image-root images --out corpora/published
    python launch/corpus.py export corpora/brats --format llava --out brats_llava
    python launch/corpus.py inspect corpora/brats --records 5
    python launch/corpus.py review corpora/brats --n 200 --stratify domain --reader A
    python launch/corpus.py leaks corpora/brats benchmarks/vqa_rad/images --splits train
    python launch/corpus.py audit corpora/brats runs/brats --identifiers patients.txt

`COMMAND --help` explains each. Exit codes: 0 done, 2 a mistake in what was asked (one message says which), 3 every record was
rejected (with the reasons counted), 4 a leak was found, 5 an identifier was found, 1 the program or the machine failed.
"""

import argparse
import os
import sys

# `python launch/corpus.py` puts launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from launch.corpus_commands import audit, build, exchange, inspect, leaks, merge, review
from medclm.corpus.finalise import EverythingRejected

COMMANDS = (build, merge, exchange, inspect, review, leaks, audit)
"""Modules that declare their commands with `add`."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except EverythingRejected as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: a build goes on when the same command is run again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
