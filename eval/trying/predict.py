"""One question about one picture or a folder of them: reasoning, answer and boxes, printed, drawn and written.

Pictures are ordinary files or DICOM (predict_dicom.py); serve.py asks in the same way. Knows nothing of corpora or truth.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from eval.decoding import Decoding
from eval.example import Ask, Example, Prediction
from eval.pictures import GivenPictures
from eval.respondent import Asked, Respondent, read_reply
from eval.trying.overlay import overlay
from eval.trying.predict_dicom import DicomFrame, Volumes, Written, check_writer, open_frame, write_report, write_segmentation
from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.reading import SUFFIXES, looks_like_dicom
from medclm.corpus.pixels import MAX_PIXELS, read_picture
from medclm.corpus.windows import Window
from medclm.data.render import with_instruction
from medclm.types import Box

NOTICE = "Research use only, not a medical device."
WRITERS = {"sr": write_report, "seg": write_segmentation}
_PICTURES = (".png", ".jpg", ".jpeg")
_CUT = "cut at the longest completion: raise --max-new-tokens"
_FINE = ("answered", "cut", "no DICOM source", "not written: seg_no_box")
"""Beginnings of what may be counted of a folder when all is well."""


@dataclass(frozen=True)
class Reading:
    """How a file becomes a picture."""

    window: Window | None = None
    """(centre, width) of the grey values shown; None = as the file says, and 16 bits that say nothing are refused."""
    frame: int | None = None
    """Of DICOM files with several, counting from 1."""
    burned_in: str = "reject"
    """Of DICOM pictures that may show the patient's name: reject, mask or allow."""
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.window is not None and not (all(map(math.isfinite, self.window)) and self.window[1] > 0):
            raise ValueError(f"--window {self.window[0]:g} {self.window[1]:g}: give CENTRE and a WIDTH above 0, such as 40 400")


@dataclass(frozen=True)
class Seen:
    """A picture as it is asked about."""

    image: Image.Image
    """RGB, upright."""
    window: Window | None = None
    """(centre, width) of the grey values shown; None = shown as stored."""
    window_from: str = ""
    """`--window`, or what else decided it (see `DicomFrame`)."""
    dicom: DicomFrame | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the file's own picture, upright; larger than `image` where only a region is shown."""
        return self.dicom.kept.stored_size if self.dicom else self.image.size

    def stored_px(self, box_unit: Box) -> Box:
        """A unit box of `image` in pixels of the file's own picture."""
        box_px = box_unit.scaled(*self.image.size)
        return self.dicom.stored(box_px) if self.dicom else box_px


@dataclass(frozen=True)
class Said:
    """What a model said of a picture."""

    question: str
    prediction: Prediction
    stopped: bool
    """Ended by itself; False = cut at the longest completion."""

    def confidence(self, box: int) -> float | None:
        """Geometric mean of the probabilities of the tokens that write a box, 0..1; None = not known."""
        scores = self.prediction.box_scores
        return round(math.exp(scores[box]), 4) if scores else None


def see(path: Path, question: str, reading: Reading, *, name: str = "", volumes: Volumes | None = None) -> Seen:
    """The picture of a file.

    Args:
        question: of a CT slice it decides which values are visible, where nothing is declared.
        name: the file's own name, where `path` has another.
        volumes: of the folder that it lies in.

    Raises:
        RejectedImage: missing, unreadable, truncated, too large, of unknown grey values, ...; the detail names the cure.
    """
    try:
        if looks_like_dicom(path) or Path(name).suffix.lower() in SUFFIXES:
            frame = open_frame(
                path,
                reading.frame,
                question,
                window=reading.window,
                burned_in=reading.burned_in,
                max_pixels=reading.max_pixels,
                scale=volumes.scale(path) if volumes else None,
            )
            return Seen(Image.fromarray(frame.pixels).convert("RGB"), frame.window, frame.window_from, frame)
        picture = read_picture(path, max_pixels=reading.max_pixels, sixteen_bit=reading.window)
        image = Image.fromarray(picture.pixels).convert("RGB")
        return Seen(image, reading.window, "--window") if picture.windowed else Seen(image)
    except RejectedImage as error:  # the corpus commands take the window as one word
        raise RejectedImage(error.reason, error.detail.replace("CENTRE,WIDTH", "CENTRE WIDTH")) from error


def ask(respondent: Respondent, question: str, instruction: str, seen: Sequence[Seen]) -> list[Said]:
    """What is said of each picture, asked together."""
    examples = [
        Example(id=str(at), patient="", question_kind="", answer_type="open", question=question, picture=str(at))
        for at in range(len(seen))
    ]
    asked = [Asked(example, Ask("answer", with_instruction(question, instruction))) for example in examples]
    pictures = GivenPictures({str(at): one.image for at, one in enumerate(seen)})
    replies = {one.example.id: reply for one, reply in respondent.replies(asked, pictures, lambda _: None)}
    found = []
    for example, one in zip(examples, seen, strict=True):
        reply = replies[example.id]
        prediction = read_reply(reply, respondent.square.frame(one.image.size), respondent.box_text)
        found.append(Said(question, prediction, reply.stopped))
    return found


def record(said: Said, seen: Seen, fingerprint: str) -> dict[str, Any]:
    """An answer as JSON; boxes in pixels and fractions of the file's own picture."""
    width, height = seen.size
    boxes = []
    for at, box in enumerate(said.prediction.boxes_unit):
        box_px = seen.stored_px(box)
        unit = box_px.scaled(1 / width, 1 / height)
        numbers = {"px": [round(value, 2) for value in box_px], "unit": [round(value, 5) for value in unit]}
        boxes.append({**numbers, "confidence": said.confidence(at)})
    dicom = seen.dicom
    return {
        **({"sop_instance_uid": str(dicom.header.get("SOPInstanceUID", "")), "frame": dicom.frame + 1} if dicom else {}),
        "width": width,
        "height": height,
        "window": {"centre": seen.window[0], "width": seen.window[1], "from": seen.window_from} if seen.window else None,
        "question": said.question,
        "rationale": said.prediction.rationale,
        "answer": said.prediction.answer or None,
        "boxes": boxes,
        "cut": not said.stopped,
        "model_fingerprint": fingerprint,
        "time": round(time.time(), 3),  # seconds since 1970, as in metrics.jsonl: a date would look like one of a patient
        "notice": NOTICE,
    }


@dataclass(frozen=True)
class Call:
    """One call of the command: what it asks, and what it writes."""

    question: str
    instruction: str
    reading: Reading
    dicom: tuple[str, ...]
    """Of `WRITERS`; for a source that is no DICOM file none is written."""
    run: str
    """Equal for all files of the call."""

    def write(
        self, target: Path, suffix: str, seen: Seen, said: Said, fingerprint: str, *, number: int = 1, file: str = ""
    ) -> list[RejectedImage]:
        """The picture with its boxes, the record and the DICOM objects of one answer, at `target` plus suffixes.

        Args:
            suffix: of the picture: .png or .jpg.
            number: of the file within the call.
            file: relative name of the source, for the record; empty = not told.

        Returns:
            Why DICOM objects were not written.
        """
        prediction = said.prediction
        lines = (f"Question: {self.question}", f"Answer: {prediction.answer or '(no answer)'}", prediction.rationale, NOTICE)
        drawn = overlay(seen.image, truth_unit=(), predicted_unit=prediction.boxes_unit, caption=lines)
        drawn.save(target.with_name(target.name + suffix))
        told = {**({"file": file} if file else {}), **record(said, seen, fingerprint)}
        text = json.dumps(told, ensure_ascii=False, indent=1) + "\n"
        target.with_name(f"{target.name}.json").write_text(text, encoding="utf-8")
        boxes_px = [seen.stored_px(box) for box in prediction.boxes_unit]
        written = Written(self.question, prediction.rationale, prediction.answer or "", boxes_px, fingerprint, self.run, number)
        failed = []
        for kind in self.dicom if seen.dicom else ():
            try:
                WRITERS[kind](target.with_name(f"{target.name}.{kind}.dcm"), seen.dicom, written)
            except RejectedImage as refusal:
                failed.append(refusal)
        return failed


def _check_ours(target: Path) -> None:
    """A JSON file in the record's place that is no earlier answer of ours may be somebody's annotations."""
    path = target.with_name(f"{target.name}.json")
    try:
        ours = not path.exists() or json.loads(path.read_text(encoding="utf-8")).get("notice") == NOTICE
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise ValueError(f"--out: {path} is there already and no answer of an earlier prediction: give another name")


def predict(
    checkpoint: Path,
    image_path: Path,
    question: str,
    *,
    out: Path | None,
    instruction: str,
    max_new_tokens: int,
    reading: Reading | None = None,
    batch_size: int = 8,
    dicom: tuple[str, ...] = (),
) -> int:
    """Ask about a picture or every picture of a folder; print, draw and write what the model says.

    Args:
        out: a .png or .jpg for one picture, a folder for a folder; None = print only.
        batch_size: pictures of a folder asked together; changes speed and memory only.
        dicom: of `WRITERS`.

    Returns:
        0, or 3 where a picture got no answer or an object that was asked for was not written.

    Raises:
        ValueError: an image, checkpoint, question or output path that cannot be used.
    """
    if not question.strip():
        raise ValueError("--question is empty: ask something")
    if dicom:
        check_writer([f"--dicom-{kind}" for kind in dicom])
        if out is None:
            raise ValueError(f"--dicom-{dicom[0]} needs --out: it is written beside the picture with the boxes")

    decoding = Decoding(max_new_tokens=max_new_tokens, batch_size=batch_size)

    def opened() -> Respondent:  # called after the first picture: a wrong file is told in a second
        from eval.model import open_checkpoint

        return open_checkpoint(checkpoint, decoding)

    call = Call(question, instruction, reading or Reading(), dicom, secrets.token_hex(8))
    if image_path.is_dir():
        return predict_folder(opened, image_path, call, out, batch_size)
    return predict_one(opened, image_path, call, out)


def predict_one(opened: Callable[[], Respondent], path: Path, call: Call, out: Path | None) -> int:
    """As `predict`, of one file; `opened` gives who answers."""
    if out is not None and (out.suffix.lower() not in _PICTURES or not out.resolve().parent.is_dir()):
        raise ValueError(f"--out {out}: give a .png or .jpg in a folder that exists")
    if out is not None and out.resolve() == path.resolve():
        raise ValueError(f"--out {out}: this is the image itself: give another name")
    if out is not None:
        _check_ours(out.with_suffix(""))
    try:
        seen = see(path, call.question, call.reading)
    except RejectedImage as error:
        raise ValueError(f"--image {path}: {error}") from error
    if call.dicom and seen.dicom is None:
        raise ValueError(f"--dicom-{call.dicom[0]}: {path} is no DICOM file, and only such a one has a study to write to")
    respondent = opened()
    [said] = ask(respondent, call.question, call.instruction, [seen])
    _print(said, seen)
    failed = []
    if out is not None:  # the record does not name its source: the user has named the output, beside which it lies
        failed = call.write(out.with_suffix(""), out.suffix, seen, said, respondent.settings["weights"])
        print(f"picture: {out}; record: {out.with_suffix('.json')}")
    for refusal in failed:
        print(f"not written: {refusal}", file=sys.stderr)
    return 0 if said.prediction.answer and all(refusal.reason == "seg_no_box" for refusal in failed) else 3


def _print(said: Said, seen: Seen) -> None:
    prediction = said.prediction
    print(f"Question: {said.question}\nReasoning: {prediction.rationale or '-'}\nAnswer: {prediction.answer or '(no answer)'}")
    for at, box in enumerate(prediction.boxes_unit):
        x0, y0, x1, y1 = (round(value) for value in seen.stored_px(box))
        confidence = said.confidence(at)
        sure = "" if confidence is None else f"; confidence {confidence:.2f}"
        print(f"Box {at + 1}: x {x0} to {x1}, y {y0} to {y1} (pixels of the {seen.size[0]} x {seen.size[1]} image{sure})")
    if seen.window:
        print(f"Window: centre {seen.window[0]:g}, width {seen.window[1]:g} (by {seen.window_from})")
    if not said.stopped:
        print(_CUT, file=sys.stderr)
    print(NOTICE)


def predict_folder(opened: Callable[[], Respondent], folder: Path, call: Call, out: Path | None, batch_size: int) -> int:
    """As `predict`, of every file below a folder; a file that cannot be read is named, counted and passed over."""
    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size}: give at least 1")
    files = folder_files(folder, out)
    names, counts, respondent = output_names(files), Counter[str](), None
    for name in names.values() if out else ():
        _check_ours(out / name)
    volumes = Volumes(folder, burned_in=call.reading.burned_in, max_pixels=call.reading.max_pixels)
    with tqdm(total=len(files), unit="file", desc="asking", disable=None) as bar:
        for first in range(0, len(files), batch_size):
            seen: dict[int, Seen] = {}
            for number, file in enumerate(files[first : first + batch_size], start=first):
                try:
                    seen[number] = see(folder / file, call.question, call.reading, volumes=volumes)
                except RejectedImage as refusal:
                    counts[f"refused: {refusal.reason}"] += 1
                    tqdm.write(f"refused {file.as_posix()}: {refusal}", file=sys.stderr)
            bar.update(min(batch_size, len(files) - first) - len(seen))
            if not seen:
                continue
            respondent = respondent or opened()
            said = ask(respondent, call.question, call.instruction, list(seen.values()))
            for number, answer in zip(seen, said, strict=True):
                file, prediction = files[number].as_posix(), answer.prediction
                counts["answered" if prediction.answer else "no answer"] += 1
                tqdm.write(f"{file}: {prediction.answer or '(no answer)'} (boxes: {len(prediction.boxes_unit)})")
                if out is not None:
                    target, model = out / names[files[number]], respondent.settings["weights"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    counts["no DICOM source, so no object"] += bool(call.dicom and seen[number].dicom is None)
                    for refusal in call.write(target, ".png", seen[number], answer, model, number=number + 1, file=file):
                        counts[f"not written: {refusal.reason}"] += 1
                        tqdm.write(f"not written {file}: {refusal}", file=sys.stderr)
                counts[_CUT] += not answer.stopped
                bar.update()
    if respondent is None:
        raise ValueError(f"--image {folder}: none of its {len(files)} files is a picture that can be asked about (see above)")
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()) if count)
    print(f"{len(files)} files: {told}" + (f"; written to {out}" if out else "") + f"\n{NOTICE}")
    return 3 if any(count for what, count in counts.items() if not what.startswith(_FINE)) else 0


def folder_files(folder: Path, out: Path | None) -> list[Path]:
    """Every file below a folder, relative to it, in order of name; hidden ones and links to folders are left out.

    Raises:
        ValueError: there is none; or `out` lies within the folder or around it, where answers and pictures would mix.
    """
    if out is not None:
        here, there = folder.resolve(), out.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise ValueError(f"--out {out}: lies within --image {folder} or around it: give a folder beside it")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out}: --image is a folder, so give a folder for its answers")
    found = []
    for at, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(at, name).relative_to(folder) for name in names if not name.startswith(".")]
    if not found:
        raise ValueError(f"--image {folder}: holds no file")
    return sorted(found)


def output_names(files: Sequence[Path]) -> dict[Path, Path]:
    """Relative name of each file's answers: its own without the ending, or with it where two would be equal."""
    wanted = Counter(name for file in files for name in {_folded(file), _folded(file.with_suffix(""))})
    return {file: file.with_suffix("") if wanted[_folded(file.with_suffix(""))] == 1 else file for file in files}


def _folded(name: Path) -> str:
    return name.as_posix().casefold()  # some file systems know no capitals
