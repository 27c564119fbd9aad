"""From an annotated image to a linked one: each lesion with its host organ and the facts that may be said of it.

Everything a text may later claim is decided here, from pixels, headers and labels. Knows the picture, its masks and the
tables of organs.py; nothing of questions or phrasings.

Facts of an annotation are plain JSON values; a key is present only where it is known:
    label | absent       class that is seen here | class that is asked about and absent (controls)
    organ, relation      host without side; inside, borders, adjacent, projects_over, unknown (always present)
    within, overlaps     wholes the host is part of; other organs whose shadow covers at least half of it (projections)
    organ_candidates     the organs that a reviewed row allows, or `any` where there is no row
    organ_margin         the host's score less that of the best organ unrelated to it, two decimals; masks have decided
    host_box             true where the host is a stated box: side and host are said, nothing that needs its outline
    image_position, side, side_of, vertical, depth    see locations.py
    location             the address made of them, as a noun phrase
    area_share           share of the host's area, 0..1 (not for controls, as all below)
    size_mm              [longer, shorter] side of the box in millimetres; only with spacing, and off the picture's edge
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

from medclm.corpus.brightness import Brightness
from medclm.corpus.contract import LinkedAnnotation, LinkedImage, Reject, SourceAnnotation, SourceImage
from medclm.corpus.controls import find_controls
from medclm.corpus.hosts import Host, Scene, find_host, read_scene, region_of
from medclm.corpus.locations import height_word, image_position, owns_side, part_words, place
from medclm.corpus.organs import TABLE, Plausible, ancestors, read_name, row_for, side_in_class, structure
from medclm.corpus.regions import Region
from medclm.corpus.sides import SideDisagrees, patient_side
from medclm.types import Box

UNSPOKEN = frozenset({"organ_candidates", "organ_margin", "host_box", "intensity_effect"})
"""Keys that say how a fact was found, for reports and reviewers; no text may be made of them."""
CLEARLY_LARGER = 1.2
"""Least ratio of areas for `largest`."""


def location_facts(scene: Scene, region: Region, host: Host, class_side: str | None = None) -> dict[str, Any]:
    """Host and location keys of the module's docstring; `class_side` is the side in the name of the lesion's class.

    Raises:
        SideDisagrees: two sources of the side contradict each other.
    """
    facts: dict[str, Any] = {"relation": host.relation, "image_position": image_position(region)}
    if host.organ is not None:
        facts |= {"organ": host.organ, "within": list(ancestors(host.organ))}
    if host.overlaps:
        facts["overlaps"] = list(host.overlaps)
    if host.margin is not None:
        facts["organ_margin"] = round(host.margin, 2)
    if host.mask is not None and host.mask.is_box:
        facts["host_box"] = True
    side = patient_side(scene, region, host, class_side)
    if side is not None:
        facts |= {"side": side, "side_of": "organ" if owns_side(host.organ) else "patient"}
    if host.mask is not None:
        facts |= part_words(region, host.mask.region, scene.directions, scene.image.plane)
    facts |= _height_facts(scene.image, host)
    return facts | {"location": place(facts)}


def _height_facts(image: SourceImage, host: Host) -> dict[str, str]:
    """`vertical` on an axial slice, where the source says at what height it cuts the host."""
    if image.plane != "axial" or host.organ is None:
        return {}
    sides = ("left", "right") if host.side == "bilateral" else (host.side,)
    words = {
        height_word(height)
        for name, height in image.organ_heights.items()
        if read_name(name) in {(host.organ, s) for s in sides}
    }
    return {"vertical": words.pop()} if len(words) == 1 else {}


def measured_facts(scene: Scene, annotation: SourceAnnotation, region: Region, host: Host) -> dict[str, Any]:
    """Size keys of the module's docstring."""
    facts: dict[str, Any] = {}
    if host.mask is not None and not host.mask.is_box and host.score:
        facts["area_share"] = round(host.score * region.area / host.mask.closed.area, 4)
    if scene.image.spacing_mm is not None and not _cut_off(annotation.box_px, scene.image.pixels.shape):
        row_mm, column_mm = scene.image.spacing_mm
        sides = annotation.box_px.height * row_mm, annotation.box_px.width * column_mm
        facts["size_mm"] = [round(float(max(sides)), 1), round(float(min(sides)), 1)]
    return facts


def _cut_off(box_px: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box reaches the picture's edge: what is seen of it is a part of unknown size."""
    height, width = shape[:2]
    return box_px.x0 < 1 or box_px.y0 < 1 or box_px.x1 > width - 1 or box_px.y1 > height - 1


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
    brightness = Brightness(scene, _union(regions, shape))
    lesions, rejects, linked_regions = [], [], []
    for annotation, region in zip(ordered, regions, strict=True):
        row = row_for(annotation.lesion_class, source=image.source, projection=scene.projection, table=table)
        host = find_host(scene, region, row, structure(annotation.lesion_class))
        try:
            facts = location_facts(scene, region, host, side_in_class(annotation.lesion_class))
        except SideDisagrees as error:
            detail = f"{error}: correct the header, the name or the orientation of the source"
            rejects.append(Reject(f"{image.index}.{annotation.index}", "side_disagrees", detail))
            continue
        facts |= {"label": annotation.lesion_class, "organ_candidates": list(row.organs) if row is not None else "any"}
        facts |= measured_facts(scene, annotation, region, host) | brightness.facts(region, host)
        lesions.append(LinkedAnnotation(annotation, "lesion", host.organ, host.relation, host.score, facts))
        linked_regions.append(region)
    scope = exhaustive_scope(image, rejects)
    lesions = _with_comparisons(lesions, linked_regions, scope)
    controls = _controls(scene, lesions, linked_regions, scope, seed)
    return LinkedImage(image, (*lesions, *controls), tuple(rejects))


def _union(regions: Sequence[Region], shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape, bool)
    for region in regions:
        out[region.window.slices] |= region.inside
    return out


def _controls(
    scene: Scene, lesions: Sequence[LinkedAnnotation], regions: Sequence[Region], scope: Sequence[str], seed: int
) -> list[LinkedAnnotation]:
    controls: list[LinkedAnnotation] = []
    for lesion_class, box_px in find_controls(scene.image, scene.organs, lesions, regions, scope, _mirror(scene), seed):
        source = SourceAnnotation(f"controls[{len(controls)}]", lesion_class, lesion_class, box_px)
        region = region_of(source, scene.image.pixels.shape)
        host = find_host(scene, region, None)
        try:
            facts = location_facts(scene, region, host)
        except SideDisagrees:  # the lesion's own reject tells of it
            continue
        facts["absent"] = lesion_class
        controls.append(LinkedAnnotation(source, "control", host.organ, host.relation, host.score, facts))
    return controls


def exhaustive_scope(image: SourceImage, rejects: Sequence[Reject] = ()) -> tuple[str, ...]:
    """Classes of which every lesion of this image is known: none once linking refused an annotation.

    Sources take the class of a refused annotation out of `label_scope` (contract.SourceImage) and say of every class that is
    left whether it is present or absent. Where an annotation was refused, a class without that word is not trusted: its
    source may not know the rule. A class that a label calls uncertain or not assessed is never in scope.
    """
    if rejects:
        return ()
    refused = any(".annotations[" in reject.index for reject in image.rejects)
    unsaid = "uncertain" if refused else "absent"
    return tuple(name for name in image.label_scope if image.image_labels.get(name, unsaid) in ("present", "absent"))


def _reading_order(annotation: SourceAnnotation, height: int) -> tuple[int, float, str]:
    """Rows of a tenth of the image from top to bottom, left to right within them."""
    x0, y0, x1, y1 = annotation.box_px
    return int(10 * (y0 + y1) / 2 / height), (x0 + x1) / 2, annotation.index


def _mirror(scene: Scene) -> tuple[int, float]:
    """Image axis and coordinate that a control box is mirrored about."""
    image_axis = scene.directions.side.image_axis if scene.directions.side is not None else 0
    line = scene.midline.position_px if scene.midline is not None else scene.image.pixels.shape[1 - image_axis] / 2
    return image_axis, line


def _with_comparisons(
    lesions: Sequence[LinkedAnnotation], regions: Sequence[Region], scope: Sequence[str]
) -> list[LinkedAnnotation]:
    """The lesions with `count`, `largest` and `largest_of_class` where they hold."""
    by_mask = all(lesion.source.mask is not None for lesion in lesions)
    areas = [region.area if by_mask else lesion.source.box_px.area for lesion, region in zip(lesions, regions, strict=True)]
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
