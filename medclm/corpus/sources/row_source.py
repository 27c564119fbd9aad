"""Datasets whose pictures and lesions stand in the rows of one table; a format says what a row means.

Rows are grouped by picture in order of first appearance. Must not know any column but the one that names the picture.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from medclm.corpus.contract import Reject
from medclm.corpus.sources.detection import PictureSource, RefusedAnnotation, Stated, refused
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.picture_files import PictureFiles
from medclm.corpus.sources.tables import Row, Table


class RowSource(PictureSource):
    """Pictures named by a column of a table (contract.Source)."""

    def __init__(self, table: Table, column: str, image_root: Path, options: SourceOptions) -> None:
        """Groups the rows.

        Raises:
            ValueError: the picture folder does not exist.
        """
        super().__init__(options, table.file.parent)
        self._pictures = PictureFiles(image_root)
        self._names: list[str] = []
        self._rows: dict[str, list[Row]] = {}
        rejects = []
        for row in table.rows:
            if not row[column]:
                detail = f"line {row.line} names no picture: fill in {column}"
                rejects.append(Reject(f"rows[{row.number}]", "image_entry_missing", detail))
                continue
            self._add(row[column]).append(row)
        self.rejects = tuple(rejects)

    def __len__(self) -> int:
        return len(self._names)

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        found, seen = [], dict[tuple[str, ...], Row]()
        for row in self._of(index):
            if not self.is_lesion(row):
                continue
            first = seen.setdefault(row.cells, row)
            try:
                if first is not row:
                    raise RefusedAnnotation("duplicate_row", f"line {row.line} repeats line {first.line}: keep one")
                found.append(self.lesion(row, size))
            except RefusedAnnotation as refusal:
                found.append(refused(Stated(row.number, self.class_of(row)), refusal))
        return found

    def count(self, index: int) -> int:
        return sum(self.is_lesion(row) for row in self._of(index))

    @abstractmethod
    def is_lesion(self, row: Row) -> bool:
        """Whether the row means to state a lesion; the others say something of the picture."""

    @abstractmethod
    def class_of(self, row: Row) -> str | None:
        """Its class as written; None = not stated."""

    @abstractmethod
    def lesion(self, row: Row, size: tuple[int, int]) -> Stated:
        """The lesion of a row in a frame of `size` (width, height); raises RefusedAnnotation."""

    def _of(self, index: int) -> list[Row]:
        return self._rows[loosely(self._names[index])]

    def _add(self, name: str) -> list[Row]:
        """The rows of a picture, which is listed if it was not yet. Names that differ in letter case alone are one."""
        key = loosely(name)
        if key not in self._rows:
            self._rows[key] = []
            self._names.append(name)
        return self._rows[key]
