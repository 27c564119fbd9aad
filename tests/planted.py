"""A small hospital export in which every carrier of an identifier holds one of forty: made for the proof of privacy.

Each identifier is distinct and occurs in its carrier alone, so that whatever is found in an output names the road it came by.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import FileDataset

from tests.dicom_files import picture, saved, segmentation, slice_of

DICOM_FIELDS = {
    "PatientName": "Kowalska^Zofia",
    "PatientID": "MRN-4815162342",
    "OtherPatientIDs": "ALT-77310458",
    "AccessionNumber": "ACC90177342",
    "InstitutionName": "Saint Wendelin Infirmary",
    "ReferringPhysicianName": "Okonkwo^Ifeanyi",
    "PatientAddress": "17 Larkspur Terrace",
    "StudyDescription": "abdomen for Abernathy-Quist",
    "SeriesDescription": "portal venous, Vantongeren",
    "StudyInstanceUID": "1.2.826.0.1.3680043.77.4401.9",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.77.5502.8",
    "StudyDate": "20190317",
    "PatientBirthDate": "19310822",
    "DeviceSerialNumber": "SN-8830174-K",
    "ImageComments": "seen with Thistlewood",
}
"""Elements that every slice has."""
OTHER = {
    "DICOM private tag": "Dumitrescu-PRV-5520",
    "DICOM SOPInstanceUID": "1.2.826.0.1.3680043.77.6603.7",
    "DICOM overlay plane": "OVERLAY-PEMBERTON-31",
    "folder name": "Wojciechowski_Tadeusz",
    "file name": "brzezinska_bogna",
    "EXIF Artist": "Fitzwilliam Brandt",
    "EXIF UserComment": "film of Haraldsdottir",
    "EXIF GPS": "N54-3520-E18-6466",
    "JPEG comment": "scanned for Marchetti",
    "PNG tEXt": "Castellanos bed 14",
    "PNG iTXt": "Grünwald-Meißner",
    "TIFF tag": "Nakagawa Setsuko",
    "COCO image field patient": "PT-66120987",
    "COCO file_name": "schwarzenbach-0044",
    "COCO info.contributor": "Delacroix-Ombredane",
    "COCO info.description": "ward of Prendergast",
    "NIH patient in the picture name": "00077123",
    "NIH Patient ID cell": "88120456",
    "report, name": "Lindqvist-Oyelaran",
    "report, date": "14 March 2018",
    "report, telephone": "555-0142-778",
}
BURNED_IN = {
    "pixels, BurnedInAnnotation YES": "RASMUSSEN INGRID",
    "pixels, secondary capture": "ACHTERBERG JORIS",
    "pixels, ultrasound without regions": "MBEKI NOMVULA",
    "pixels, secondary capture of a film": "TRAORE FATOUMATA",
}
"""Only in pixels, where a search of bytes cannot find them."""
PLANTED = {**{f"DICOM {keyword}": value for keyword, value in DICOM_FIELDS.items()}, **OTHER, **BURNED_IN}
"""Carrier -> identifier."""
SIDE = 128
TEXT_ROWS = 16
"""Rows from the top that burned-in text stands in: the eighth that `--burned-in mask` blackens."""
OVERLAY_BIT = 12
"""Lowest bit of a slice's pixels that holds no value."""
LESION = (48, 56, 24, 20)
"""x, y, width, height in pixels of every drawn lesion."""


@dataclass
class Export:
    """Where the parts of the export lie."""

    root: Path
    films: list[Path] = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        """How the sources could be named in an output: the folder, and every file in it by its relative path and name."""
        files = [path.relative_to(self.root) for path in sorted(self.root.rglob("*")) if path.is_file()]
        return sorted({str(self.root), *(path.as_posix() for path in files), *(path.name for path in files)})


def plant(root: Path) -> Export:
    """Writes the whole export below `root`."""
    made = Export(root)
    _volume(root / "ct" / OTHER["folder name"])
    _pictures(root / "films")
    _nih(root / "nih")
    made.films = _captures(root / "captures")
    return made


def grey(seed: int, side: int = SIDE) -> np.ndarray:
    """(side, side) uint8 noise with a bright lesion at LESION."""
    pixels = np.random.default_rng(seed).integers(40, 90, (side, side), dtype=np.uint8)
    x, y, width, height = LESION
    pixels[y : y + height, x : x + width] += 120
    return pixels


def written(text: str) -> np.ndarray:
    """(SIDE, SIDE) bool: the text in the rows above TEXT_ROWS."""
    shown = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(shown).text((4, 2), text, fill=1)
    return np.asarray(shown)


def _volume(folder: Path) -> None:
    """Four slices of CT in a folder that bears a name, with a segmented tumour in a liver. Their overlay stands in an element of its
    own and, as older scanners wrote it, in a bit of the pixels that holds no values."""
    liver, tumour = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    liver[32:96, 24:104] = True
    x, y, width, height = LESION
    tumour[y : y + height, x : x + width] = True
    uids = [f"{OTHER['DICOM SOPInstanceUID']}.{number}" for number in range(4)]
    for number, uid in enumerate(uids):
        spelled = written(OTHER["DICOM overlay plane"]).astype(np.uint16) << OVERLAY_BIT
        values = grey(number).astype(np.uint16) | spelled
        fields = {**DICOM_FIELDS, "BitsStored": OVERLAY_BIT, "InstanceNumber": number + 1, "Manufacturer": "SIEMENS"}
        one = slice_of("CT", values, uid, 2.0 * number, **fields)
        _private(one)
        _overlay(one)
        saved(folder / f"{OTHER['file name']}_{number}.dcm", one)
    frames = [
        (segment, mask, {"uid": uids[number], "z": 2.0 * number})
        for segment, mask in ((1, tumour), (2, liver))
        for number in (0, 1, 2)
    ]
    saved(folder / f"{OTHER['file name']}_seg.dcm", segmentation(frames, {1: ("liver tumor", ""), 2: ("liver", "")}))


def _private(made: FileDataset) -> None:
    made.private_block(0x0011, "ARCHIVE", create=True).add_new(0x01, "LO", OTHER["DICOM private tag"])


def _overlay(made: FileDataset) -> None:
    """A graphic of one bit a pixel whose first bits spell the identifier."""
    made.add_new(0x60000010, "US", SIDE)
    made.add_new(0x60000011, "US", SIDE)
    made.add_new(0x60000040, "CS", "G")
    made.add_new(0x60000050, "SS", [1, 1])
    made.add_new(0x60000100, "US", 1)
    made.add_new(0x60000102, "US", 0)
    made.add_new(0x60003000, "OW", OTHER["DICOM overlay plane"].encode().ljust(SIDE * SIDE // 8, b"\0"))


def _pictures(folder: Path) -> None:
    """Twelve films as PNG, JPEG and TIFF around a COCO file, two of three for training, and reports of some. Two more entries are
    faulty, so that something of them is written to rejects.jsonl: a file that is absent and one that is no picture."""
    images = folder / "images"
    images.mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for number in range(12):
        suffix = (".png", ".jpg", ".tif")[number % 3]
        name = f"{OTHER['COCO file_name']}-{number:02d}{suffix}"
        _SAVE[suffix](Image.fromarray(grey(20 + number)), images / name)
        entries.append(
            {
                "id": number + 1,
                "file_name": name,
                "width": SIDE,
                "height": SIDE,
                "patient": f"{OTHER['COCO image field patient']}/{number}",
                "set": "test" if number >= 8 else "train",
            }
        )
    for number, name in ((12, "absent"), (13, "broken")):
        faulty = f"{OTHER['COCO file_name']}-{name}.png"
        entries.append({**entries[0], "id": number + 1, "file_name": faulty, "patient": OTHER["COCO image field patient"]})
    (images / faulty).write_bytes(b"no picture")
    tree = {
        "info": {"contributor": OTHER["COCO info.contributor"], "description": OTHER["COCO info.description"]},
        "images": entries,
        "categories": [{"id": 1, "name": "nodule"}, {"id": 2, "name": "mass"}],
        "annotations": [_boxed(number + 1, number + 1, 1 + number % 2) for number in range(12)],
    }
    (folder / "boxes.json").write_text(json.dumps(tree), encoding="utf-8")
    told = (
        f"There is a nodule in the left lung. Discussed with Dr. {OTHER['report, name']} on the ward.",
        f"Comparison is made with {OTHER['report, date']}. The heart is not enlarged.",
        f"No effusion is seen. Please ring {OTHER['report, telephone']} for questions.",
        f"Nodule as described. The wife of {OTHER['report, name']} was informed.",
    )
    rows = "".join(f'"{entries[number]["file_name"]}","{told[number % 4]}","Nodule."\n' for number in range(10))
    (folder / "reports.csv").write_text(f"image,findings,impression\n{rows}", encoding="utf-8")


def _png(made: Image.Image, path: Path) -> None:
    info = PngInfo()
    info.add_text("Comment", OTHER["PNG tEXt"])
    info.add_itxt("Description", OTHER["PNG iTXt"])
    made.save(path, pnginfo=info)


def _jpeg(made: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = OTHER["EXIF Artist"]
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + OTHER["EXIF UserComment"].encode()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = b"ASCII\0\0\0" + OTHER["EXIF GPS"].encode()
    made.save(path, exif=exif, comment=OTHER["JPEG comment"], quality=95)


def _tiff(made: Image.Image, path: Path) -> None:
    made.save(path, tiffinfo={270: OTHER["TIFF tag"]})


_SAVE = {".png": _png, ".jpg": _jpeg, ".tif": _tiff}


def _nih(folder: Path) -> None:
    """One boxed film, its patient in its name, and the table of entries."""
    (folder / "images").mkdir(parents=True)
    name = f"{OTHER['NIH patient in the picture name']}_004.png"
    Image.fromarray(grey(50, 1024)).save(folder / "images" / name)
    (folder / "boxes.csv").write_text(f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{name},Nodule,40,50,120,100\n")
    (folder / "entries.csv").write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
        f"{name},Nodule,4,{OTHER['NIH Patient ID cell']},058,F,PA\n"
    )


def _captures(folder: Path) -> list[Path]:
    """One plain film and four that show a name, as DICOM around a COCO file; in the order of its images."""
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("DX", {"BurnedInAnnotation": "YES"}),
        ("SC", {"Modality": "OT"}),
        ("US", {}),
        ("DX", {"ConversionType": "DF"}),
        ("DX", {}),
    )
    names = [*BURNED_IN.values(), ""]
    files, entries, boxes = [], [], []
    for number, ((kind, elements), text) in enumerate(zip(kinds, names, strict=True)):
        shown = np.where(written(text), np.uint8(255), grey(60 + number))
        uid = f"1.2.3.4.{number}"
        made = picture(kind, shown, uid, PatientID=f"C{number}", **elements)
        files.append(saved(folder / "images" / f"capture_{number}.dcm", made))
        entries.append({"id": number + 1, "file_name": files[-1].name, "width": SIDE, "height": SIDE})
        boxes.append(_boxed(number + 1, number + 1, 1))
    tree = {"images": entries, "categories": [{"id": 1, "name": "nodule"}], "annotations": boxes}
    (folder / "boxes.json").write_text(json.dumps(tree), encoding="utf-8")
    return files


def _boxed(number: int, image: int, category: int) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(LESION), "iscrowd": 0}
