"""The MR technique of a picture in one word of a fixed vocabulary, or None.

What the scanner codes comes first, then words of its descriptions. A description is free text and may hold a name, so only a
match leaves this module, never the text. Signs that contradict each other give None: a wrong sequence name is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CODED = {
    "T1": "t1",
    "T2": "t2",
    "PROTON_DENSITY": "pd",
    "FLUID_ATTENUATED": "flair",
    "DIFFUSION": "dwi",
}
"""AcquisitionContrast of enhanced objects (PS3.3 C.8.13.3.3.1) that names one technique."""
_WORDS = {
    "t1": {"t1", "t1w", "t1wi"},
    "t2": {"t2", "t2w", "t2wi"},
    "pd": {"pd", "pdw", "proton"},
    "flair": {"flair", "tirm"},
    "dwi": {"dwi", "diff", "diffusion", "trace", "tracew"},
    "adc": {"adc"},
}
_CONTRAST = {"gd", "gad", "gado", "gadolinium", "post", "postcontrast", "ce", "contrast", "kontrast"}
_JOINED = {"t1c", "t1ce", "t1gd", "t1post", "t1wce", "t1km"}
_PLAIN = {
    "pre",
    "precontrast",
    "native",
    "nativ",
    "without",
    "wo",
    "plain",
    "unenhanced",
    "non",
    "noncontrast",
    "dyn",
    "dynamic",
}
"""Words of pictures before the contrast, or of a series that has some from before and some from after."""
_OTHER = {
    *{"star", "t2s", "swi", "swan", "map", "mapping", "rho", "t1rho", "perf", "perfusion", "dsc", "dce", "asl", "bold", "fmri"},
    *{
        "dti",
        "fa",
        "tensor",
        "tractography",
        "loc",
        "localizer",
        "scout",
        "survey",
        "spectro",
        "subtraction",
        "sub",
        "mip",
        "tof",
    },
}
"""Words of techniques and maps that the vocabulary does not have, though their descriptions may hold a word that it has."""


def technique_of(contrast: str | None, image_type: Sequence[str], descriptions: Sequence[str], agent: bool) -> str | None:
    """The technique: t1, t1c, t2, pd, flair, dwi, adc; None = not sure.

    Args:
        contrast: AcquisitionContrast.
        image_type: values of ImageType or FrameType.
        descriptions: SeriesDescription, ProtocolName, most telling first.
        agent: whether the header names a contrast agent.
    """
    kinds = set(image_type)
    if "ADC" in kinds:
        return "adc"
    if kinds & {"FA", "TENSOR", "T2_STAR", "SUBTRACTION", "LOCALIZER", "PERFUSION", "PROJECTION IMAGE"}:
        return None
    coded = _CODED.get(contrast or "")
    described = next((found for found in map(_described, descriptions) if found is not None), None)
    if described == "":
        return None
    if coded is not None and described is not None and coded != described.removesuffix("c"):
        return None
    technique = described or coded
    if technique == "t1" and agent:
        # an agent may stand in the header of a whole study; words that deny it leave it open
        return None if any(_tokens(text) & _PLAIN for text in descriptions) else "t1c"
    return technique


def _described(text: str) -> str | None:
    """The technique a description names; "" where it names one of another kind or several, None where it names none."""
    words = _tokens(text)
    if words & _OTHER or re.search(r"t[12]\s*\*", text.lower()):
        return ""
    joined = bool(words & _JOINED)
    found = {name for name, spellings in _WORDS.items() if words & spellings} | ({"t1"} if joined else set())
    if "adc" in found:
        found -= {"dwi"}
    if found == {"t2", "flair"}:
        found = {"flair"}
    elif found == {"t1", "flair"}:
        found = {"t1"}
    if found == {"t1"} and (
        joined or (words & _CONTRAST and not words & _PLAIN) or re.search(r"\+\s*(c|gd|km)\b", text.lower())
    ):
        return "t1c"
    return (found.pop() if len(found) == 1 else "") if found else None


def _tokens(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+\d?[a-z]*", re.sub(r"[_\W]+", " ", text.lower())))
