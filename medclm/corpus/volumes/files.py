"""A volume file of any known format, by the ending of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medclm.corpus.contract import RejectedImage
from medclm.corpus.volumes.metaimage import open_metaimage
from medclm.corpus.volumes.nifti import open_nifti
from medclm.corpus.volumes.nrrd import open_nrrd
from medclm.corpus.volumes.volume import MAX_VOXELS, VolumeFile

_READERS: dict[str, Callable[..., VolumeFile]] = {
    ".nii.gz": open_nifti,
    ".nii": open_nifti,
    ".mhd": open_metaimage,
    ".mha": open_metaimage,
    ".nrrd": open_nrrd,
    ".nhdr": open_nrrd,
}
ENDINGS = tuple(_READERS)


def open_volume(path: Path, *, max_voxels: int = MAX_VOXELS) -> VolumeFile:
    """The header of a volume; voxels by its `read`.

    Raises:
        RejectedImage: volume_format, or a reason of the format's reader.
    """
    for ending, reader in _READERS.items():
        if path.name.lower().endswith(ending):
            return reader(path, max_voxels=max_voxels)
    raise RejectedImage("volume_format", f"none of {', '.join(ENDINGS)}: convert it")
