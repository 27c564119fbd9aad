"""What a segment or a region of interest may be called, most telling name first.

A coded type is preferred to a label typed by hand, unless the type says nothing; numbers that tell instances apart ("GTV-2") are
no part of a name. Must not know files, masks or what is a lesion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VAGUE = {
    *{"tissue", "connective tissue", "anatomical structure", "region of interest", "region", "structure", "segment", "organ"},
    *{"morphologically abnormal structure", "morphologically altered structure", "abnormal", "spatial and relational concept"},
}
_SIDES = {"l": "left", "r": "right", "lt": "left", "rt": "right"}


@dataclass(frozen=True)
class Named:
    """The names of a segment or region of interest."""

    label: str
    """As typed; "" where there is none."""
    type: str = ""
    """Meaning of its code; "" where there is none."""
    side: str = ""
    """left, right or nothing, as coded."""

    @property
    def coded(self) -> str:
        """Meaning of its code without a number, where that says something; "" otherwise."""
        return "" if self.type.casefold() in _VAGUE else _unnumbered(self.type)

    @property
    def names(self) -> tuple[str, ...]:
        """Without side and number; empty where it has no name at all."""
        vague = self.type.casefold() in _VAGUE or not self.type
        ordered = (self.label, self.type) if vague else (self.type, self.label)
        return tuple(dict.fromkeys(name for one in ordered if (name := _unnumbered(one))))

    @property
    def organ(self) -> str:
        """The first name with its side behind it: `Kidney left`, also of `Kidney_L`; "" where it has no name."""
        if not self.names:
            return ""
        *words, last = re.split(r"[\s_\-]+", self.names[0])
        if words and last.casefold() in _SIDES:
            return " ".join((*words, _SIDES[last.casefold()]))
        return f"{self.names[0]} {self.side}".strip()


def _unnumbered(name: str) -> str:
    """`GTV-2` -> `GTV`; a number without a separator belongs to the name (`vertebra L5`)."""
    return re.sub(r"[\s_\-#.]+\d+$", "", name.strip()).strip() or name.strip()
