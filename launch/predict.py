"""Predict: ask a checkpoint one question about one picture; prints its reasoning and answer, draws the box it names.

    python launch/predict.py --checkpoint runs/demo --image scan.png --question "What abnormality is shown?" --out overlay.png

Research use only, not a medical device.
"""

import os
import sys

# The launchers put launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from eval.predict import predict


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="run folder (its newest step), step folder, or export")
    add("--image", type=Path, required=True, help="picture: PNG, JPEG, TIFF, ... with one frame")
    add("--question", required=True, help='what to ask, e.g. "Which organ hosts the nodule?"')
    add("--out", type=Path, help="where the picture with the predicted boxes goes, e.g. overlay.png")
    add(
        "--instruction",
        default="reason",
        choices=("reason", "direct"),
        help="reason: box and chain of thought, then the answer",
    )
    add("--max-new-tokens", type=int, default=256, help="longest completion in tokens (default: 256)")
    add("--window", type=float, nargs=2, metavar=("CENTRE", "WIDTH"), help="grey values shown of a 16-bit picture")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    chosen = arguments(given)
    return predict(
        chosen.checkpoint,
        chosen.image,
        chosen.question,
        out=chosen.out,
        instruction=chosen.instruction,
        max_new_tokens=chosen.max_new_tokens,
        window=tuple(chosen.window) if chosen.window else None,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"predict: {error}", file=sys.stderr)
        sys.exit(2)
