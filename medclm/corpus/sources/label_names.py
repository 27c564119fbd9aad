"""How the values of lesion label maps are named, and which of the names are lesions; the same for volumes and for pictures.

What a label map says of itself goes first, then --classes, else every value but 0 is the one class of --lesions. Must not know
pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from medclm.corpus.class_maps import read_class_map
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.vocabulary import check_declared
from medclm.corpus.volumes.labels import LabelMap


class LabelNames:
    """The names of one source's label maps."""

    def __init__(self, options: SourceOptions) -> None:
        """Reads --classes.

        Raises:
            ValueError: of `read_class_map`.
        """
        self._options = options
        self._map: Mapping[int, str] = read_class_map(str(options.classes)) if options.classes is not None else {}
        self.seen: set[str] = set(self._map.values())
        """Every name met so far."""

    def meet(self, labels: LabelMap) -> None:
        """Remember the names of a label map."""
        self.seen.update(name for name in labels.classes if name is not None)

    def arguments(self, own: Mapping[int, str], where: Path) -> tuple[Mapping[int, str], str | None]:
        """What `name_labels` needs: names by value, and the name of everything.

        Args:
            own: names that the label map itself states; they go first.

        Raises:
            ValueError: nothing names the values.
        """
        names = own or self._map
        if names:
            return names, None
        if len(self._options.lesions) == 1:
            self.seen.add(self._options.lesions[0])
            return {}, self._options.lesions[0]
        raise ValueError(f"{where}: nothing names its values: give --classes, or for a mask of one class --lesions CLASS")

    def is_lesion(self, name: str) -> bool:
        return not self._options.lesions or self._options.canonical(name) in self._options.lesions

    def check(self, where: Path) -> None:
        """Refuse declared classes that no label map has; raises ValueError."""
        known = {self._options.canonical(name) for name in self.seen}
        for name in self._options.lesions:
            if name not in known:
                close = difflib.get_close_matches(name, sorted(known), n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known)[:12]) or 'none'}"
                raise ValueError(f"{where}: --lesions {name} is no class of these label maps: {hint}")
        check_declared(where, self._options, (name for name in self.seen if self.is_lesion(name)))
