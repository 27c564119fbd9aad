"""From an annotated image to a linked one: each lesion with its host organ and the facts that may be said of it.

Everything a text may later claim is decided here, from pixels, headers and labels. Knows the picture, its masks and the
tables of organs.py; nothing of questions or phrasings.

Facts of an annotation are plain JSON values; a key is present only where it is known:
    label | absent       class that is seen here | class that is asked about and absent (controls)
    organ, relation      host without side; inside, borders, adjacent, projects_over, unknown (always present)
    within, overlaps     wholes the host is part of; other organs whose shadow covers at least half of it (projections)
    organ_candidates     the organs that a reviewed row allows, or `any` where there is no row
    image_position, side, side_of, vertical, depth    see locations.py
    location             the address made of them, as a noun phrase
    area_share           share of the host's area, 0..1 (not for controls, as all below)
    size_mm              [longer, shorter] side of the box in millimetres; only with spacing
    intensity            opacity, lucency; hyper- or hypoattenuating, -intense, -echoic, against `intensity_reference`
    intensity_effect     difference to the reference in its standard deviations
    sequence             the MR technique that `intensity` holds for
    count                lesions of this class in the image; only where the class is in scope and none was refused
    largest, largest_of_class    true for one lesion that is clearly larger than every other (of its class)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medclm.corpus.contract import LinkedAnnotation, LinkedImage, Reject, SourceAnnotation, SourceImage
from medclm.corpus.controls import find_controls
from medclm.corpus.hosts import Host, Scene, find_host, read_scene, region_of
from medclm.corpus.locations import (
    Midline,
    centre,
    extent,
    find_midline,
    image_position,
    owns_side,
    part_words,
    place,
    profile,
    side_word,
)
from medclm.corpus.organs import SYMMETRIC, TABLE, Plausible, ancestors, row_for

REFERENCE_PX, EFFECT_SD = 200, 0.5
"""Least reference area and least difference for an intensity word."""
CLEARLY_LARGER = 1.2

_INTENSITY = {
    "CT": ("hyperattenuating", "hypoattenuating"),
    "MR": ("hyperintense", "hypointense"),
    "US": ("hyperechoic", "hypoechoic"),
}
_RADIOGRAPH = ("opacity", "lucency")


def patient_side(scene: Scene, region: np.ndarray, host: Host) -> str | None:
    """The side word, by name first and direction second; None = not known or not shown.

    Raises:
        SideDisagrees: a side-named mask and the picture's directions contradict each other.
    """
    axis = scene.directions.side
    if axis is None:
        return None
    counts = profile(region, axis.image_axis)
    midline = None
    if host.mask is not None and host.side is None and host.organ is not None and host.organ in SYMMETRIC:
        low, high = extent(profile(host.mask, axis.image_axis))
        midline = Midline((low + high) / 2, high - low, True)
    midline = midline or find_midline(axis, scene.organs, scene.image.pixels, scene.image.plane)
    seen = side_word(counts, axis, midline) if midline is not None else None
    if host.side is None:
        return seen
    if midline is not None and midline.measured and {seen, host.side} == {"left", "right"}:
        offset = (centre(counts) - midline.position_px) * axis.sign
        raise SideDisagrees(f"the mask's name says {host.side}, the directions {seen} ({abs(offset):.0f} px from the midline)")
    return host.side


class SideDisagrees(Exception):
    """Two sources of a side contradict each other; the annotation is rejected."""


def location_facts(scene: Scene, region: np.ndarray, host: Host) -> dict[str, Any]:
    """Host and location keys of the module's docstring."""
    facts: dict[str, Any] = {"relation": host.relation, "image_position": image_position(region)}
    if host.organ is not None:
        facts |= {"organ": host.organ, "within": list(ancestors(host.organ))}
    if host.overlaps:
        facts["overlaps"] = list(host.overlaps)
    side = patient_side(scene, region, host)
    if side is not None:
        facts |= {"side": side, "side_of": "organ" if owns_side(host.organ) else "patient"}
    if host.mask is not None:
        facts |= part_words(region, host.mask, scene.directions, scene.image.plane)
    return facts | {"location": place(facts)}


def measured_facts(
    scene: Scene, annotation: SourceAnnotation, region: np.ndarray, host: Host, lesions: np.ndarray
) -> dict[str, Any]:
    """Size and intensity keys; `lesions` is (H, W) bool of all lesions of the image."""
    facts: dict[str, Any] = {}
    if host.mask is not None and host.score:
        facts["area_share"] = round(float(np.count_nonzero(region & host.mask) / np.count_nonzero(host.mask)), 4)
    if scene.image.spacing_mm is not None:
        row_mm, column_mm = scene.image.spacing_mm
        sides = annotation.box_px.height * row_mm, annotation.box_px.width * column_mm
        facts["size_mm"] = [round(float(max(sides)), 1), round(float(min(sides)), 1)]
    return facts | _intensity_facts(scene, region, host, lesions)


def _intensity_facts(scene: Scene, region: np.ndarray, host: Host, lesions: np.ndarray) -> dict[str, Any]:
    image = scene.image
    words = _INTENSITY.get(image.modality or "", _RADIOGRAPH if scene.projection else None)
    if (
        words is None
        or image.intensity is None
        or host.mask is None
        or host.score == 0
        or (image.modality == "MR" and not image.technique)
    ):
        return {}
    reference = image.intensity[host.mask & ~lesions]
    if reference.size < REFERENCE_PX or not reference.std() > 0:
        return {}
    effect = float((image.intensity[region].mean() - reference.mean()) / reference.std())
    if not abs(effect) >= EFFECT_SD:
        return {}
    facts = {
        "intensity": words[0 if effect > 0 else 1],
        "intensity_effect": round(effect, 2),
        "intensity_reference": f"rest of the {host.organ}",
    }
    return facts | ({"sequence": image.technique} if image.modality == "MR" else {})


def link(image: SourceImage, *, seed: int, table: Mapping[str, Plausible] = TABLE) -> LinkedImage:
    """Every lesion with its host and facts, in reading order, then one control box for each class that allows it.

    Args:
        seed: of the choice among control sites.
        table: plausible organs by class; `{**TABLE, ...}` extends it.

    Raises:
        ValueError: patient directions that are none, or a mask of another shape than the picture.
    """
    scene = read_scene(image)
    shape = image.pixels.shape[:2]
    ordered = sorted(image.annotations, key=lambda each: _reading_order(each, shape[0]))
    regions = [region_of(each, shape) for each in ordered]
    occupied = np.logical_or.reduce(regions) if regions else np.zeros(shape, bool)
    lesions, rejects, linked_regions = [], [], []
    for annotation, region in zip(ordered, regions, strict=True):
        row = row_for(annotation.lesion_class, source=image.source, projection=scene.projection, table=table)
        host = find_host(scene, region, row)
        try:
            facts = location_facts(scene, region, host)
        except SideDisagrees as error:
            detail = f"{error}: correct the mask's name or the orientation of the source"
            rejects.append(Reject(f"{image.index}.{annotation.index}", "side_disagrees", detail))
            continue
        facts |= {"label": annotation.lesion_class, "organ_candidates": list(row.organs) if row is not None else "any"}
        facts |= measured_facts(scene, annotation, region, host, occupied)
        lesions.append(LinkedAnnotation(annotation, "lesion", host.organ, host.relation, host.score, facts))
        linked_regions.append(region)
    scope = exhaustive_scope(image, rejects)
    lesions = _with_comparisons(lesions, linked_regions, scope)

    def describe(region: np.ndarray) -> tuple[Host, dict[str, Any]]:
        host = find_host(scene, region, None)
        return host, location_facts(scene, region, host)

    controls: list[LinkedAnnotation] = []
    for lesion_class, box_px in find_controls(
        scene.image, [organ.mask for organ in scene.closed], lesions, linked_regions, scope, _mirror(scene), seed
    ):
        source = SourceAnnotation(f"controls[{len(controls)}]", lesion_class, lesion_class, box_px)
        try:
            host, facts = describe(region_of(source, shape))
        except SideDisagrees:  # the lesion's own reject tells of it
            continue
        facts["absent"] = lesion_class
        controls.append(LinkedAnnotation(source, "control", host.organ, host.relation, host.score, facts))
    return LinkedImage(image, (*lesions, *controls), tuple(rejects))


def exhaustive_scope(image: SourceImage, rejects: Sequence[Reject] = ()) -> tuple[str, ...]:
    """Classes of which every lesion of this image is known: none once linking refused an annotation.

    What the source refused has left `label_scope` already, by class (contract.SourceImage).
    """
    return () if rejects else tuple(image.label_scope)


def _reading_order(annotation: SourceAnnotation, height: int) -> tuple[int, float, str]:
    """Rows of a tenth of the image from top to bottom, left to right within them."""
    x0, y0, x1, y1 = annotation.box_px
    return int(10 * (y0 + y1) / 2 / height), (x0 + x1) / 2, annotation.index


def _mirror(scene: Scene) -> tuple[int, float]:
    """Image axis and coordinate that a control box is mirrored about."""
    axis = scene.directions.side
    midline = find_midline(axis, scene.organs, scene.image.pixels, scene.image.plane) if axis is not None else None
    image_axis = axis.image_axis if axis is not None else 0
    return image_axis, midline.position_px if midline is not None else scene.image.pixels.shape[1 - image_axis] / 2


def _with_comparisons(
    lesions: Sequence[LinkedAnnotation], regions: Sequence[np.ndarray], scope: Sequence[str]
) -> list[LinkedAnnotation]:
    """The lesions with `count`, `largest` and `largest_of_class` where they hold."""
    by_mask = all(lesion.source.mask is not None for lesion in lesions)
    areas = [
        np.count_nonzero(region) if by_mask else lesion.source.box_px.area
        for lesion, region in zip(lesions, regions, strict=True)
    ]
    classes = [lesion.source.lesion_class for lesion in lesions]
    out = []
    for i, lesion in enumerate(lesions):
        facts = dict(lesion.facts)
        same = [areas[k] for k in range(len(lesions)) if k != i and classes[k] == classes[i]]
        others = [area for k, area in enumerate(areas) if k != i]
        if classes[i] in scope:
            facts["count"] = len(same) + 1
        if others and areas[i] >= CLEARLY_LARGER * max(others):
            facts["largest"] = True
        if same and areas[i] >= CLEARLY_LARGER * max(same):
            facts["largest_of_class"] = True
        out.append(replace(lesion, facts=facts))
    return out
