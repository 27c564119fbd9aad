"""Which organ a region belongs to: by its mask, never by the overlap of two boxes.

Segmenters leave out what is diseased (effusion, consolidation, big tumours) and what lies in another organ's shadow, so
masks are closed and hole-filled first, and on radiographs a lung is known to reach behind the heart. An organ that is only a
box may host what lies in it, and nothing more is said of it. Knows masks and the tables of organs.py; nothing of facts or words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from medclm.corpus.contract import SourceAnnotation, SourceImage
from medclm.corpus.locations import BOTH, Directions, Midline, find_midline, organ_midline, read_directions
from medclm.corpus.organs import SHADOWED, Plausible, allows, ancestors, is_projection, paired, read_name, related
from medclm.corpus.regions import OrganMask, Region, box_region, gap, least_gap, share

MIN_OVERLAP = 0.5
"""Least share of a lesion inside an organ that it is `inside` of."""
BORDER_SHARE = 0.25
"""Least share of a lesion's border on an organ that it `borders`."""
NEAR = 0.05
"""Greatest distance to an `adjacent` organ, as a share of the image's shorter side."""
CLOSING = 0.02
"""Radius of the closing of masks, as a share of the image's shorter side."""
_RING = 2
"""Width in pixels of a lesion's border."""


@dataclass(frozen=True)
class Host:
    """Where a region belongs."""

    relation: str = "unknown"
    organ: str | None = None
    side: str | None = None
    """Patient side that the mask's name states: left, right, bilateral."""
    score: float | None = None
    mask: OrganMask | None = None
    """None = host from the table or unknown."""
    overlaps: tuple[str, ...] = ()
    margin: float | None = None
    """Score less that of the best other organ that could be the host; None = there is no other, or masks did not decide."""


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with what is computed once for all its lesions."""

    image: SourceImage
    directions: Directions
    projection: bool
    organs: tuple[OrganMask, ...]

    @property
    def side_px(self) -> int:
        return int(min(self.image.pixels.shape[:2]))

    @cached_property
    def midline(self) -> Midline | None:
        """The patient's middle along the side axis, None where it is not shown."""
        axis = self.directions.side
        return find_midline(axis, self.organs, self.image.pixels, self.image.plane) if axis is not None else None

    @cached_property
    def organ_midline(self) -> Midline | None:
        """The same, from organs alone."""
        return organ_midline(self.directions.side, self.organs) if self.directions.side is not None else None


def region_of(annotation: SourceAnnotation, shape: tuple[int, ...]) -> Region:
    """The lesion's mask, else its box."""
    if annotation.mask is not None and annotation.mask.any():
        return Region(annotation.mask.astype(bool))
    return box_region(annotation.box_px, shape)


def read_scene(image: SourceImage) -> Scene:
    """Names read and masks checked; masks that name the same organ are one.

    Raises:
        ValueError: patient directions that are none, or a mask of another shape than the picture.
    """
    try:
        directions = read_directions(image.plane, image.patient_directions, image.modality)
    except ValueError as error:
        raise ValueError(f"{image.index}: {error}") from error
    shape = image.pixels.shape[:2]
    masks: dict[tuple[str, str | None], np.ndarray] = {}
    for name, mask in image.organs.items():
        if mask.shape != shape:
            raise ValueError(
                f"{image.index}: mask of {name!r} is {mask.shape}, the picture {shape}: resize it (nearest neighbour)"
            )
        if mask.any():
            organ = read_name(name)
            masks[organ] = (masks[organ] != 0) | (mask != 0) if organ in masks else mask
    radius = max(1, round(CLOSING * min(shape)))
    organs = tuple(OrganMask(name, side, mask, radius) for (name, side), mask in masks.items())
    return Scene(image, directions, is_projection(image.modality, image.plane), organs)


def find_host(scene: Scene, region: Region, row: Plausible | None, itself: str | None = None) -> Host:
    """The organ of a region among those that the row allows (None = all).

    Args:
        itself: the organ that the region is, where an anatomical structure is asked about: it hosts itself in no sense.
    """
    if row is not None and row.state:
        return _from_table(scene, region, row.organs[0])
    organs = [organ for organ in scene.organs if allows(row, organ.name) and not (itself and related(itself, organ.name))]
    if not organs:
        return Host()
    scores = [organ.share_of(region) for organ in organs]
    best: int | None = _most_specific(organs, scores)
    margin = _margin(best, organs, scores) if best is not None else None
    relation = "inside"
    contacts = _contacts(region, organs) if best is None else {}
    if best is None:
        best, relation = _bordered(contacts), "borders"
    if best is None and scene.projection:
        best = _in_shadow(scene, region, organs, row)
    if best is not None:
        host, score = organs[best], scores[best]
        relation = "projects_over" if scene.projection else relation
        side = _side_in_names(host, organs, scores) if score > 0 or relation != "projects_over" else None
        return Host(relation, host.name, side, score, host, _overlaps(scene, region, host), margin)
    nearest = _nearest(region, organs, contacts, NEAR * scene.side_px)
    if nearest is None:
        return Host()
    host = organs[nearest]
    return Host("adjacent", host.name, host.side, scores[nearest], host)


def _most_specific(organs: Sequence[OrganMask], scores: Sequence[float]) -> int | None:
    """The best overlap, then down the hierarchy as long as a part still holds enough of the lesion."""
    enough = [i for i, score in enumerate(scores) if score >= MIN_OVERLAP]
    if not enough:
        return None
    best = max(enough, key=lambda i: (scores[i], len(ancestors(organs[i].name))))
    parts = [i for i in enough if organs[best].name in ancestors(organs[i].name)]
    return max(parts, key=lambda i: (len(ancestors(organs[i].name)), scores[i]), default=best)


def _margin(best: int, organs: Sequence[OrganMask], scores: Sequence[float]) -> float | None:
    others = [score for organ, score in zip(organs, scores, strict=True) if not related(organ.name, organs[best].name)]
    return scores[best] - max(others) if others else None


def _contacts(region: Region, organs: Sequence[OrganMask]) -> dict[int, tuple[float, float]]:
    """Shares of the region's border on each organ, as given: of the pixels that touch it, and of a ring of `_RING` pixels."""
    window = region.window.grown(_RING + 1, region.mask.shape)
    near = [i for i, organ in enumerate(organs) if not organ.is_box and organ.region.window.common(window) is not None]
    if not near:
        return {}
    inside = region.mask[window.slices]
    touching, ring = (ndimage.binary_dilation(inside, iterations=width) & ~inside for width in (1, _RING))
    borders = [(border, max(int(np.count_nonzero(border)), 1)) for border in (touching, ring)]

    def shares(mask: np.ndarray) -> tuple[float, float]:
        first, second = (np.count_nonzero(border & mask) / size for border, size in borders)
        return first, second

    return {i: shares(organs[i].region.mask[window.slices]) for i in near}


def _bordered(contacts: Mapping[int, tuple[float, float]]) -> int | None:
    """The organ that most of the border touches, if enough of it lies there; segmenters leave a pixel of doubt."""
    enough = [i for i, shares in contacts.items() if max(shares) >= BORDER_SHARE]
    return max(enough, key=lambda i: contacts[i], default=None)


def _in_shadow(scene: Scene, region: Region, candidates: Sequence[OrganMask], row: Plausible | None) -> int | None:
    """On a radiograph: the nearest organ that is known to reach behind what covers the lesion (a lung behind the heart).

    Where the row allows such organs alone, a lesion between their masks lies behind something that has no mask.
    """
    hidden = [i for i, organ in enumerate(candidates) if _covering(organ.name)]
    covers = {organ.name for organ in scene.organs if not organ.is_box and organ.share_of(region) >= MIN_OVERLAP}
    covers |= {whole for name in covers for whole in ancestors(name)}
    behind = [i for i in hidden if covers & _covering(candidates[i].name)]
    if not behind and row is not None and all(_covering(name) for name in row.organs):
        behind = hidden if _between(scene, region, [candidates[i].closed for i in hidden]) >= MIN_OVERLAP else []
    return min(behind, key=lambda i: gap(region.window, candidates[i].closed), default=None)


def _covering(organ: str) -> set[str]:
    """Whose shadow may cover parts of an organ."""
    return {each for name in (organ, *ancestors(organ)) for each in SHADOWED.get(name, ())}


def _between(scene: Scene, region: Region, others: Sequence[Region]) -> float:
    """Share of the region's pixels that have pixels of the others on both sides of them, from side to side of the patient."""
    upright = scene.directions.side is None or scene.directions.side.image_axis == 0
    rows = slice(*region.extent(1 if upright else 0))
    joined = np.zeros(region.mask.shape if upright else region.mask.T.shape, bool)[rows]
    for other in others:
        joined |= (other.mask if upright else other.mask.T)[rows]
    before = np.logical_or.accumulate(joined, axis=1)
    behind = np.logical_or.accumulate(joined[:, ::-1], axis=1)[:, ::-1]
    inside = (region.mask if upright else region.mask.T)[rows]
    return float(np.count_nonzero(inside & before & behind)) / region.area


def _nearest(
    region: Region, organs: Sequence[OrganMask], contacts: Mapping[int, tuple[float, float]], limit: float
) -> int | None:
    """The organ, as given, that comes nearest to the region's window, within `limit` pixels; of several the one it touches most."""
    near = [i for i, organ in enumerate(organs) if not organ.is_box and least_gap(region.window, organ.region.window) <= limit]
    gaps = {i: gap(region.window, organs[i].region) for i in near}
    nearest = min(near, key=lambda i: (gaps[i], *(-share for share in contacts.get(i, (0.0, 0.0)))), default=None)
    return nearest if nearest is not None and gaps[nearest] <= limit else None


def _side_in_names(host: OrganMask, organs: Sequence[OrganMask], scores: Sequence[float]) -> str | None:
    """The side in the host's name; bilateral where its counterpart holds a good part of the lesion as well."""
    other = max(
        (score for organ, score in zip(organs, scores, strict=True) if organ.name == host.name and organ.side != host.side),
        default=0.0,
    )
    return "bilateral" if host.side and other >= BOTH else host.side


def _from_table(scene: Scene, region: Region, organ: str) -> Host:
    """A state or compartment: the table names it, the paired mask it touches most gives the side."""
    relation = "projects_over" if scene.projection else "inside"
    own = max((each for each in scene.organs if each.name == organ), key=lambda each: each.share_of(region), default=None)
    side = _touched_side(scene, region) if paired(organ) else None
    return Host(relation, organ, side, own.share_of(region) if own is not None else None, own)


def _touched_side(scene: Scene, region: Region) -> str | None:
    window = region.window.grown(_RING + 1, region.mask.shape)
    sided = [each for each in scene.organs if each.side and paired(each.name) and each.region.window.common(window) is not None]
    if not sided:
        return None
    grown = np.zeros(region.mask.shape, bool)
    grown[window.slices] = ndimage.binary_dilation(region.mask[window.slices], iterations=_RING)
    wider = Region(grown)
    scores = [share(wider, each.closed) for each in sided]
    best = int(np.argmax(scores))
    return _side_in_names(sided[best], sided, scores) if scores[best] > 0 else None


def _overlaps(scene: Scene, region: Region, host: OrganMask) -> tuple[str, ...]:
    """Organs, unrelated to the host, whose shadow covers the lesion in a projection; a box has no shadow."""
    if not scene.projection:
        return ()
    others = [each for each in scene.organs if not each.is_box and not related(each.name, host.name)]
    return tuple(sorted({each.name for each in others if each.share_of(region) >= MIN_OVERLAP}))
