"""Serve: a local page in the browser to try a checkpoint: upload a picture, ask, see answer, reasoning and boxes.

    python launch/serve.py --checkpoint runs/demo
    python launch/serve.py --checkpoint runs/demo --port 8090 --max-new-tokens 128

It prints the address to open, with a key in it, and listens on this machine alone. From another machine, by way of ssh:
    ssh -L 8080:127.0.0.1:8080 MACHINE                and open the printed address there

Uploads stay in memory and are gone after each answer; no picture, question or answer is written or logged.
Research use only, not a medical device.
"""

import os
import sys

# The launchers put launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from eval.decoding import Decoding


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="run folder (its newest step), step folder, or export")
    add("--port", type=int, default=8080, help="0 = any free one (default: 8080)")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--allow-remote", action="store_true", help="let --host be an address that other machines reach, unencrypted")
    add("--max-new-tokens", type=int, default=256, help="longest completion in tokens (default: 256)")
    add("--waiting", type=int, default=4, help="requests that may wait while one is worked on (default: 4)")
    add(
        "--burned-in",
        default="reject",
        choices=("reject", "mask", "allow"),
        help="DICOM pictures that may show a name: refuse, blacken an eighth at every border, or take as they are",
    )
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    chosen = arguments(given)
    from eval.model import open_checkpoint
    from eval.trying.predict import Reading
    from eval.trying.serve import Desk, serve

    decoding = Decoding(max_new_tokens=chosen.max_new_tokens, batch_size=1)

    def opened() -> Desk:
        print(f"opening {chosen.checkpoint} ...", flush=True)
        model = open_checkpoint(chosen.checkpoint, decoding)
        return Desk(model, Reading(burned_in=chosen.burned_in), waiting=chosen.waiting)

    serve(opened, host=chosen.host, port=chosen.port, remote=chosen.allow_remote)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"serve: {error}", file=sys.stderr)
        sys.exit(2)
