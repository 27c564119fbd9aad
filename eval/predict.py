"""One question about one picture file: reasoning, answer and boxes, printed and drawn. Knows nothing of corpora or truth."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from eval.overlay import overlay
from medclm.corpus.contract import RejectedImage
from medclm.corpus.pixels import read_picture
from medclm.data.render import with_instruction

NOTICE = "Research use only, not a medical device."


def read_image(path: Path, *, window: tuple[float, float] | None) -> Image.Image:
    """The RGB picture of a file, upright.

    Raises:
        ValueError: missing, unreadable, truncated, too large, or of 16 bits without a window; names the file and the cure.
    """
    try:
        pixels = read_picture(path, sixteen_bit=window).pixels
    except RejectedImage as error:
        cure = "; give --window CENTRE WIDTH" if error.reason == "image_16_bit" else ""
        raise ValueError(f"--image {path}: {error.reason}: {error.detail}{cure}") from error
    return Image.fromarray(pixels).convert("RGB")


def predict(
    checkpoint: Path,
    image_path: Path,
    question: str,
    *,
    out: Path | None,
    instruction: str,
    max_new_tokens: int,
    window: tuple[float, float] | None = None,
) -> int:
    """Print what the model says and draw its boxes to `out`; 0, or 3 where the model gave no answer.

    Raises:
        ValueError: an image, checkpoint, question or output path that cannot be used.
    """
    if not question.strip():
        raise ValueError("--question is empty: ask something")
    if out is not None and (out.suffix.lower() not in (".png", ".jpg", ".jpeg") or not out.resolve().parent.is_dir()):
        raise ValueError(f"--out {out}: give a .png or .jpg in a folder that exists")
    image = read_image(image_path, window=window)
    from eval.model import Decoding, ask_once, open_checkpoint  # after the picture: a wrong file is told in a second

    model = open_checkpoint(checkpoint, Decoding(max_new_tokens=max_new_tokens, batch_size=1))
    reply, prediction = ask_once(model, with_instruction(question, instruction), image)
    rationale = prediction.rationale
    print(f"Question: {question}\nReasoning: {rationale or '-'}\nAnswer: {prediction.answer or '(no answer)'}")
    for number, box in enumerate(prediction.boxes_unit, start=1):
        x0, y0, x1, y1 = (round(value) for value in box.scaled(*image.size))
        print(f"Box {number}: x {x0} to {x1}, y {y0} to {y1} (pixels of the {image.width} x {image.height} image)")
    if not reply.stopped:
        print(f"cut after {max_new_tokens} tokens: raise --max-new-tokens", file=sys.stderr)
    print(NOTICE)
    if out is not None:
        caption = (f"Question: {question}", f"Answer: {prediction.answer or '(no answer)'}", rationale, NOTICE)
        overlay(image, truth_unit=(), predicted_unit=prediction.boxes_unit, caption=caption).save(out)
        print(f"picture: {out}")
    return 0 if prediction.answer else 3
