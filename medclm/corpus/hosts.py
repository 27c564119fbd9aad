"""Which organ a region belongs to: by its mask, never by the overlap of two boxes.

Segmenters leave out what is diseased (effusion, consolidation, big tumours) and what lies in another organ's shadow, so
masks are closed and hole-filled first, and on radiographs a lung is known to reach behind the heart. Knows masks and the
tables of organs.py; nothing of facts or words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from medclm.corpus.contract import SourceAnnotation, SourceImage
from medclm.corpus.locations import BOTH, Directions, OrganMask, read_directions
from medclm.corpus.organs import SHADOWED, Plausible, allows, ancestors, is_projection, paired, read_name

MIN_OVERLAP = 0.5
"""Least share of a lesion inside an organ that it is `inside` of."""
BORDER_SHARE = 0.25
"""Least share of a lesion's border on an organ that it `borders`."""
NEAR = 0.05
"""Greatest distance to an `adjacent` organ, as a share of the image's shorter side."""
CLOSING = 0.02
"""Radius of the closing of masks, as a share of the image's shorter side."""


@dataclass(frozen=True)
class Host:
    """Where a region belongs."""

    relation: str = "unknown"
    organ: str | None = None
    side: str | None = None
    """Patient side that the mask's name states: left, right, bilateral."""
    score: float | None = None
    mask: np.ndarray | None = None
    """(H, W) bool, closed; None = host from the table or unknown."""
    overlaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """An image with what is computed once for all its lesions."""

    image: SourceImage
    directions: Directions
    projection: bool
    organs: tuple[OrganMask, ...]
    """As the source gave them; those that overlap a lesion lack it in many sets."""
    closed: tuple[OrganMask, ...]

    @property
    def side_px(self) -> int:
        return int(min(self.image.pixels.shape[:2]))


def close_mask(mask: np.ndarray, radius: int) -> np.ndarray:
    """(H, W) bool: gaps and bays up to 2 * `radius` pixels wide closed, holes filled. Only the mask's own window is touched."""
    if not mask.any():
        return mask
    window = _window(mask, 0)
    padded = np.pad(mask[window], radius + 1)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    shrunk = ndimage.distance_transform_edt(grown) > radius
    background, _ = ndimage.label(~(shrunk | padded))  # a hole is background that does not reach the rim
    filled = background != background[0, 0]
    out = mask.copy()
    out[window] = filled[radius + 1 : -radius - 1, radius + 1 : -radius - 1]
    return out


def region_of(annotation: SourceAnnotation, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the lesion's mask, else its box."""
    if annotation.mask is not None and annotation.mask.any():
        return annotation.mask.astype(bool)
    x0, y0, x1, y1 = annotation.box_px
    region = np.zeros(shape[:2], bool)
    left, top = min(int(x0), shape[1] - 1), min(int(y0), shape[0] - 1)
    region[top : max(top + 1, round(y1)), left : max(left + 1, round(x1))] = True
    return region


def read_scene(image: SourceImage) -> Scene:
    """Names read, masks checked and closed.

    Raises:
        ValueError: patient directions that are none, or a mask of another shape than the picture.
    """
    try:
        directions = read_directions(image.plane, image.patient_directions, image.modality)
    except ValueError as error:
        raise ValueError(f"{image.index}: {error}") from error
    shape = image.pixels.shape[:2]
    organs = []
    for name, mask in image.organs.items():
        if mask.shape != shape:
            raise ValueError(
                f"{image.index}: mask of {name!r} is {mask.shape}, the picture {shape}: resize it (nearest neighbour)"
            )
        if mask.any():
            organs.append(OrganMask(*read_name(name), mask=mask != 0))
    radius = max(1, round(CLOSING * min(shape)))
    closed = tuple(replace(organ, mask=close_mask(organ.mask, radius)) for organ in organs)
    return Scene(image, directions, is_projection(image.modality, image.plane), tuple(organs), closed)


def find_host(scene: Scene, region: np.ndarray, row: Plausible | None) -> Host:
    """The organ of a region, (H, W) bool and not empty, among those that the row allows (None = all)."""
    if row is not None and row.state:
        return _from_table(scene, region, row.organs[0])
    closed = [organ for organ in scene.closed if allows(row, organ.name)]
    raw = [organ for organ in scene.organs if allows(row, organ.name)]
    if not closed:
        return Host()
    scores = [_share(region, organ.mask) for organ in closed]
    best: int | None = _most_specific(closed, scores)
    relation = "inside"
    if best is None:
        window = _window(region, 3)
        ring = ndimage.binary_dilation(region[window], iterations=2) & ~region[window]
        touching = [_share(ring, organ.mask[window]) for organ in raw]
        best = int(np.argmax(touching)) if max(touching) >= BORDER_SHARE else None
        relation = "borders"
    if best is None and scene.projection:
        best = _in_shadow(scene, region, closed)
    if best is not None:
        host, score = closed[best], scores[best]
        relation = "projects_over" if scene.projection else relation
        side = _side_in_names(host, closed, scores) if score > 0 or relation != "projects_over" else None
        return Host(relation, host.name, side, score, host.mask, _overlaps(scene, region, host))
    distances = [_distance(region, organ.mask) for organ in raw]
    if min(distances) <= NEAR * scene.side_px:
        nearest = int(np.argmin(distances))
        return Host("adjacent", raw[nearest].name, raw[nearest].side, scores[nearest], closed[nearest].mask)
    return Host()


def _window(region: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The part of the image around a region: everything else is empty."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return (
        slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin),
        slice(max(columns[0] - margin, 0), columns[-1] + 1 + margin),
    )


def _share(region: np.ndarray, mask: np.ndarray) -> float:
    return float(np.count_nonzero(region & mask)) / max(int(np.count_nonzero(region)), 1)


def _most_specific(organs: Sequence[OrganMask], scores: Sequence[float]) -> int | None:
    """The best overlap, then down the hierarchy as long as a part still holds enough of the lesion."""
    enough = [i for i, score in enumerate(scores) if score >= MIN_OVERLAP]
    if not enough:
        return None
    best = max(enough, key=lambda i: (scores[i], len(ancestors(organs[i].name))))
    parts = [i for i in enough if organs[best].name in ancestors(organs[i].name)]
    return max(parts, key=lambda i: (len(ancestors(organs[i].name)), scores[i]), default=best)


def _in_shadow(scene: Scene, region: np.ndarray, candidates: Sequence[OrganMask]) -> int | None:
    """On a radiograph: the nearest organ that is known to reach behind what covers the lesion (a lung behind the heart)."""
    covering = {organ.name for organ in scene.closed if _share(region, organ.mask) >= MIN_OVERLAP}
    covering |= {whole for name in covering for whole in ancestors(name)}
    hidden = [
        i
        for i, organ in enumerate(candidates)
        if any(covering & set(SHADOWED.get(name, ())) for name in (organ.name, *ancestors(organ.name)))
    ]
    return min(hidden, key=lambda i: _distance(region, candidates[i].mask), default=None)


def _side_in_names(host: OrganMask, organs: Sequence[OrganMask], scores: Sequence[float]) -> str | None:
    """The side in the host's name; bilateral where its counterpart holds a good part of the lesion as well."""
    other = max(
        (score for organ, score in zip(organs, scores, strict=True) if organ.name == host.name and organ.side != host.side),
        default=0.0,
    )
    return "bilateral" if host.side and other >= BOTH else host.side


def _from_table(scene: Scene, region: np.ndarray, organ: str) -> Host:
    """A state or compartment: the table names it, the paired mask it touches most gives the side."""
    sided = [mask for mask in scene.closed if mask.side and paired(mask.name)]
    window = _window(region, 3)
    grown = ndimage.binary_dilation(region[window], iterations=2)
    scores = [_share(grown, mask.mask[window]) for mask in sided]
    side = None
    if paired(organ) and scores and max(scores) > 0:
        best = int(np.argmax(scores))
        side = _side_in_names(sided[best], sided, scores)
    mask = next((each.mask for each in scene.closed if each.name == organ), None)
    return Host(
        "projects_over" if scene.projection else "inside", organ, side, _share(region, mask) if mask is not None else None, mask
    )


def _overlaps(scene: Scene, region: np.ndarray, host: OrganMask) -> tuple[str, ...]:
    if not scene.projection:
        return ()
    related = {host.name, *ancestors(host.name)}
    names = {
        o.name
        for o in scene.closed
        if o.name not in related and host.name not in ancestors(o.name) and _share(region, o.mask) >= MIN_OVERLAP
    }
    return tuple(sorted(names))


def _distance(region: np.ndarray, mask: np.ndarray) -> float:
    """Least distance in pixels between the region's bounding box and the mask."""
    ys, xs = np.nonzero(mask)
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    below = np.clip(ys, rows[0], rows[-1]) - ys
    beside = np.clip(xs, columns[0], columns[-1]) - xs
    return float(np.hypot(below, beside).min())
