"""Names of classes and organs as sources write them -> the canonical names that the corpus stores.

Canonical = lower case, words separated by single spaces. The aliases join spellings of one thing only; they never merge
things that a reader would tell apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from medclm.corpus.organ_names import read_name, structure

ALIASES: dict[str, str] = {
    "rbc": "red blood cell",
    "rbcs": "red blood cell",
    "red blood cells": "red blood cell",
    "erythrocyte": "red blood cell",
    "erythrocytes": "red blood cell",
    "wbc": "white blood cell",
    "wbcs": "white blood cell",
    "white blood cells": "white blood cell",
    "leukocyte": "white blood cell",
    "leukocytes": "white blood cell",
    "leucocyte": "white blood cell",
    "platelets": "platelet",
    "thrombocyte": "platelet",
    "thrombocytes": "platelet",
    "infiltrate": "infiltration",  # the same finding in NIH's box list and in its label list
    "ild": "interstitial lung disease",
    "enlarged pa": "enlarged pulmonary artery",
    "copd": "chronic obstructive pulmonary disease",
    "activetuberculosis": "active tuberculosis",
    "obsoletepulmonarytuberculosis": "obsolete pulmonary tuberculosis",
    "pulmonarytuberculosis": "pulmonary tuberculosis",
    "nodules": "nodule",
    "masses": "mass",
    "cysts": "cyst",
    "lesions": "lesion",
    "polyps": "polyp",
    "fractures": "fracture",
}
"""Spelling -> canonical name. Plurals stand here one by one: cutting an "s" would turn "atelectasis" into "atelectasi"."""

_BRITISH = {"tumour": "tumor", "tumours": "tumor", "tumors": "tumor", "oedema": "edema", "haemorrhage": "hemorrhage"}


def canonical_class(name: str, aliases: Mapping[str, str] | None = None) -> str:
    """The canonical name of a class, e.g. `Enhancing_Tumour` -> `enhancing tumor`, `Kidney_Left` -> `left kidney`; "" where
    nothing is left.

    Args:
        name: as written in the source.
        aliases: spelling -> canonical name of this source, before the built-in ones.
    """
    plain = _plain(name)
    for spelling, canonical in (aliases or {}).items():
        if _plain(spelling) == plain:
            return _plain(canonical)
    spelt = " ".join(_BRITISH.get(word, word) for word in plain.split())
    organ, side = read_name(spelt)
    if structure(spelt) is not None:  # `kidney_left` is read aloud as `left kidney`
        return f"{side} {organ}" if side else organ
    return ALIASES.get(spelt, spelt)


def organ_name(name: str) -> str:
    """The name of an organ with its side at the end, e.g. `Left-Lung` or `lung_left` -> `lung left`; "" where nothing is left."""
    words = _plain(name).split()
    if len(words) > 1 and words[0] in ("left", "right"):
        words = [*words[1:], words[0]]
    return " ".join(words)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", unicodedata.normalize("NFKC", name).casefold())).strip()
