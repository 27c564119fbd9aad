"""Class maps: which value of a label map is which organ.

`read_class_map("totalsegmentator")` knows the maps that need no file; every other name is a file in one of the forms that label
editors and trainers write. Knows names and numbers: no pixels, no lesions.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from medclm.corpus.sources.classes import organ_name

_VERTEBRAE = ("S1", *(f"{part}{number}" for part, last in (("L", 5), ("T", 12), ("C", 7)) for number in range(last, 0, -1)))


def _numbered(names: str) -> dict[int, str]:
    return {number: organ_name(name) for number, name in enumerate(names.split(), start=1)}


def _sided(names: str, first: str, second: str) -> str:
    return " ".join(f"{name}_{side}" for name in names.split() for side in (first, second))


_LIMBS_AND_MUSCLES = (
    _sided("humerus scapula clavicula femur hip", "left", "right"),
    _sided("gluteus_maximus gluteus_medius gluteus_minimus autochthon iliopsoas", "left", "right"),
)
TOTALSEGMENTATOR: Mapping[int, str] = _numbered(
    " ".join(
        (
            "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left",
            "lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right",
            "esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate",
            "kidney_cyst_left kidney_cyst_right sacrum",
            *(f"vertebrae_{name}" for name in _VERTEBRAE),
            "heart aorta pulmonary_vein brachiocephalic_trunk",
            _sided("subclavian_artery common_carotid_artery", "right", "left"),
            _sided("brachiocephalic_vein", "left", "right"),
            "atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein",
            _sided("iliac_artery iliac_vena", "left", "right"),
            _LIMBS_AND_MUSCLES[0],
            "spinal_cord",
            _LIMBS_AND_MUSCLES[1],
            "brain skull",
            *(f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)),
            "sternum costal_cartilages",
        )
    )
)
"""Task `total` of TotalSegmentator 2, 117 structures (class table of its read-me; Radiol Artif Intell 2023;5:e230024)."""
TOTALSEGMENTATOR_MR: Mapping[int, str] = _numbered(
    " ".join(
        (
            "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left",
            "lung_left lung_right esophagus small_bowel duodenum colon urinary_bladder prostate sacrum vertebrae",
            "intervertebral_discs spinal_cord heart aorta inferior_vena_cava portal_vein_and_splenic_vein",
            _sided("iliac_artery iliac_vena", "left", "right"),
            *_LIMBS_AND_MUSCLES,
            "brain",
        )
    )
)
"""Task `total_mr`, 50 structures (Radiology 2025;314:e241613)."""
BUILT_IN: Mapping[str, Mapping[int, str]] = {
    "totalsegmentator": TOTALSEGMENTATOR,
    "totalsegmentator_mr": TOTALSEGMENTATOR_MR,
}

_BACKGROUND = frozenset({"background", "clear label", "unlabelled", "unlabeled", "none", "empty", ""})


def read_class_map(name_or_path: str) -> dict[int, str]:
    """Label value -> organ name (lower case, side last), background left out; several values may be one organ.

    Args:
        name_or_path: `totalsegmentator`, `totalsegmentator_mr`, or a file:
            .json  {"1": "liver"} or {"liver": 1}, also under a key `labels`
            .csv, .tsv  value and name in either order, found by a header or by the digits; further columns are left alone
            .ctbl  3D Slicer colour table: value, name with underscores, colours
            .txt  ITK-SNAP label descriptions: value, six numbers, name in quotes; or as .ctbl

    Raises:
        ValueError: no such map or file, an unreadable one, or a line that is not value and name, or a value with two names;
            names file:row (in JSON file and entry) and the cure.
    """
    built_in = BUILT_IN.get(name_or_path.strip().casefold())
    if built_in is not None:
        return dict(built_in)
    path = Path(name_or_path)
    readers = {".json": _from_json, ".csv": _from_cells, ".tsv": _from_cells, ".ctbl": _from_words, ".txt": _from_words}
    reader = readers.get(path.suffix.casefold())
    if reader is None:
        raise ValueError(f"class map {name_or_path}: give {', '.join(BUILT_IN)} or a file ending in {', '.join(readers)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"class map {path}: cannot be read ({type(error).__name__}): give a text file in UTF-8") from error
    return _checked(reader(text, path), path)


def _checked(entries: Iterable[tuple[str, str, str]], path: Path) -> dict[int, str]:
    """(place, value, name) -> the map."""
    found: dict[int, str] = {}
    for place, value, name in entries:
        if not re.fullmatch(r"\d{1,9}", value.strip()):
            raise ValueError(f"{place}: value {value.strip()!r}: give a whole number of 0 or more")
        number, organ = int(value), organ_name(name)
        if number == 0:
            continue
        if organ in _BACKGROUND:
            if organ:
                continue
            raise ValueError(f"{place}: value {number} has no name: give one, or take the line out")
        if found.setdefault(number, organ) != organ:
            raise ValueError(f"{place}: value {number} is {organ} here and {found[number]} before: keep one")
    if not found:
        raise ValueError(f"class map {path}: names no organ: give lines of a value above 0 and a name")
    return found


def _from_json(text: str, path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        content = json.loads(text, object_pairs_hook=list)  # a list of pairs keeps what a dict would drop
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}): correct it") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deep: give one object of values and names") from error
    pairs = _labels(content)
    for number, pair in enumerate(pairs if pairs is not None else [content], start=1):
        place = f"{path}: entry {number}"
        key, value = pair if isinstance(pair, tuple) else (None, None)
        if isinstance(key, str) and isinstance(value, str):
            yield place, key, value
        elif isinstance(key, str) and isinstance(value, int) and not isinstance(value, bool):
            yield place, str(value), key
        else:
            raise ValueError(f'{place}: give {{"1": "liver"}} or {{"liver": 1}}')


def _labels(content: object) -> list[object] | None:
    """The pairs of the object, or of its `labels` as trainers write them; None = it is not an object."""
    if not isinstance(content, list) or not all(isinstance(pair, tuple) for pair in content):
        return None
    inner = next((value for key, value in content if key == "labels" and isinstance(value, list)), None)
    return inner if inner is not None else content


def _from_cells(text: str, path: Path) -> Iterator[tuple[str, str, str]]:
    delimiter = "\t" if path.suffix.casefold() == ".tsv" else ";" if text.count(";") > text.count(",") else ","
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    columns: tuple[int, int] | None = None
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells) or cells[0].startswith("#"):
                continue
            place = f"{path}:{reader.line_num}"
            first, columns = columns is None, columns or _columns(cells, place)
            if first and not any(cell.isdigit() for cell in cells):
                continue  # the header
            if len(cells) <= max(columns):
                raise ValueError(f"{place}: give a value and a name, separated by {delimiter!r}")
            yield place, cells[columns[0]], cells[columns[1]]
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not {path.suffix} ({error}): correct it") from error


def _columns(cells: list[str], place: str) -> tuple[int, int]:
    """Where value and name stand, by the header or by the first line."""
    words = [re.sub(r"[\s_]", "", cell.casefold()) for cell in cells]
    values = [at for at, word in enumerate(words) if word in ("value", "label", "labelvalue", "id", "index", "labelid")]
    names = [at for at, word in enumerate(words) if word in ("name", "organ", "structure", "class", "labelname")]
    if values and names:
        return values[0], names[0]
    digits = [at for at, word in enumerate(words) if word.isdigit()]
    rest = [at for at, word in enumerate(words) if word and not word.isdigit()]
    if digits and rest:
        return digits[0], rest[0]
    raise ValueError(f"{place}: neither a header of value,name nor a value and a name: give one of them")


def _from_words(text: str, path: Path) -> Iterator[tuple[str, str, str]]:
    """ITK-SNAP label descriptions (value, R G B A, two flags, name) and 3D Slicer colour tables (value, name, R G B A)."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        place = f"{path}:{number}"
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ValueError(f"{place}: a quotation mark is not closed") from error
        if len(words) == 8 and all(_is_number(word) for word in words[:7]):
            yield place, words[0], words[7]
        elif len(words) in (2, 5, 6) and not _is_number(words[1]) and all(_is_number(word) for word in words[2:]):
            yield place, words[0], words[1]
        else:
            raise ValueError(
                f'{place}: neither ITK-SNAP (value R G B A visible mesh "name") nor Slicer (value name R G B A): correct the line'
            )


def _is_number(word: str) -> bool:
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", word))
