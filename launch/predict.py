"""Predict: ask a checkpoint one question about a picture or a folder of them; prints reasoning and answer, draws the boxes it names.

one picture: PNG, JPEG, TIFF, ... or DICOM; --out gets the picture with the boxes, and a record beside it as overlay.json
  python launch/predict.py --checkpoint runs/demo --image scan.png --question "What abnormality is shown?" --out overlay.png
  python launch/predict.py --checkpoint runs/demo --image slice.dcm --question "Where is the nodule?" --out overlay.png
a folder, pictures and DICOM mixed; --out becomes a folder with NAME.png and NAME.json of each
  python launch/predict.py --checkpoint runs/demo --image scans --question "Is there a pleural effusion?" --out answers
answers as DICOM objects for a viewer or an archive: NAME.sr.dcm (TID 1500), NAME.seg.dcm (boxes filled)
  python launch/predict.py --checkpoint runs/demo --image study --question "Where is the mass?" --out answers --dicom-sr --dicom-seg

Exit status: 0 all answered, 3 some gave no answer or could not be read, 2 wrong use, 1 could not be written. Research use only, not a medical device.
"""

import os
import sys

# The launchers put launch/ first on the path, where `import train` would find launch/train.py.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
from pathlib import Path

from medclm.data.render import INSTRUCTIONS


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    asking = parser.add_argument_group("what is asked, of whom")
    add = asking.add_argument
    add("--checkpoint", type=Path, required=True, help="run folder (its newest step), step folder, or export")
    add("--image", type=Path, required=True, help="picture file, DICOM file, or folder of both (with its subfolders)")
    add("--question", required=True, help='what to ask, e.g. "Which organ hosts the nodule?"')
    add("--out", type=Path, help="one picture: where it goes with its boxes, e.g. overlay.png; a folder: a new folder")
    add(
        "--instruction",
        default="reason",
        choices=tuple(INSTRUCTIONS),
        help="reason: box and chain of thought, then the answer",
    )
    add("--max-new-tokens", type=int, default=256, help="longest completion in tokens (default: 256)")
    add("--batch-size", type=int, default=8, help="pictures of a folder asked together; changes speed only (default: 8)")
    reading = parser.add_argument_group("how files are read")
    add = reading.add_argument
    add(
        "--window",
        type=float,
        nargs=2,
        metavar=("CENTRE", "WIDTH"),
        help="grey values shown: needed by 16-bit pictures. DICOM knows its own (CT: by the class or organ in the question, else "
        "its header; MR: 0.5 to 99.5 percentile), which this overrides; e.g. -600 1500 lung, 40 400 soft tissue",
    )
    add("--frame", type=int, help="frame of a DICOM file with several, counting from 1")
    add(
        "--burned-in",
        default="reject",
        choices=("reject", "mask", "allow"),
        help="DICOM pictures that may show a name: leave out, blacken an eighth at every border, or take as they are",
    )
    dicom = parser.add_argument_group(
        "DICOM objects beside --out", "marked as research and unverified; they carry the patient of their source"
    )
    dicom.add_argument("--dicom-sr", action="store_true", help="structured report: answer as text, boxes as polylines")
    dicom.add_argument("--dicom-seg", action="store_true", help="segmentation: each box a filled segment")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    chosen = arguments(given)
    from eval.trying.predict import Reading, predict  # decoders: a second that --help need not pay

    return predict(
        chosen.checkpoint,
        chosen.image,
        chosen.question,
        out=chosen.out,
        instruction=chosen.instruction,
        max_new_tokens=chosen.max_new_tokens,
        reading=Reading(tuple(chosen.window) if chosen.window else None, chosen.frame, chosen.burned_in),
        batch_size=chosen.batch_size,
        dicom=tuple(kind for kind in ("sr", "seg") if getattr(chosen, f"dicom_{kind}")),
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"predict: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"predict: {error}", file=sys.stderr)
        sys.exit(1)
