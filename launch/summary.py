"""Say what a trained and evaluated run learned, in three lines, and where to find what it left behind.

python launch/summary.py runs/demo
"""

import os
import sys

# The launchers put launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from eval.summary import print_learned

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with eval/vqa-test and eval/grounding-test")
    try:
        print_learned(parser.parse_args().run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
