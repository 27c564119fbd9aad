"""In = kept + rejected: how many images a build read, how many are in the corpus, and by which named reason the rest is not.

What each source read stands in the manifest, what was rejected in rejects.jsonl; a reject names an image by its number alone,
so where several builds were merged the reasons are known for all sources together only. Knows counts, no files.
"""

from __future__ import annotations

from dataclasses import dataclass

from medclm.corpus.report.summary import Summary

_UNKNOWN = "how many images were read is not known: the manifest does not say"
_EMPTIED = "no record of it was left (what it held was refused, see the reasons below)"
_TWICE = "counted under more than one reason"


@dataclass(frozen=True)
class Flow:
    unit: str
    """What is counted: images or entries."""
    lines: tuple[tuple[str, int], ...]
    """What was read, what was kept, then every reason with its count; kept and reasons add up to what was read."""
    notes: tuple[str, ...]


def images_in_and_out(summary: Summary) -> Flow:
    """Images of a build, or of several merged ones."""
    read = None if summary.read is None else sum(summary.read.values())
    return _flow(summary, "image", read, summary.tables["images"], _lesion_notes(summary))


def entries_in_and_out(summary: Summary) -> Flow:
    """Entries of an import; each becomes one record."""
    return _flow(summary, "entry", summary.entries, summary.tables["records"], ())


def by_source(summary: Summary) -> list[tuple[str, int | None, int, str]]:
    """(source, images read or None, images kept, licences); sources whose images were all left out included."""
    stated = summary.manifest.get("sources", {})
    found = []
    for name in sorted({*summary.images["source"], *(summary.read or {})}):
        licences = ", ".join(stated.get(name, {}).get("licences", ())) or "unknown"
        read = None if summary.read is None else summary.read.get(name)
        found.append((name, read, summary.images["source"][name], licences))
    return found


def _flow(summary: Summary, level: str, read: int | None, kept: int, notes: tuple[str, ...]) -> Flow:
    unit = {"image": "images", "entry": "entries"}[level]
    out = summary.rejected.at(level)
    lines = [("kept", kept), *out.items()]
    if read is None:
        return Flow(unit, tuple(lines), (_UNKNOWN, *notes))
    rest = read - kept - sum(out.values())
    lines += [(_EMPTIED if rest > 0 else _TWICE, rest)] if rest else []
    return Flow(unit, (("read", read), *lines), (f"{read} read = {' + '.join(str(n) for _, n in lines)}", *notes))


def _lesion_notes(summary: Summary) -> tuple[str, ...]:
    refused = sum(summary.rejected.at("annotation").values())
    kept = summary.lesions.all.lesions
    sentence = f"lesions: {kept} kept, {refused} refused by name"
    lost = "; those of images that were left out whole are not counted" if summary.rejected.at("image") else ""
    return (f"{sentence}{lost}; {summary.lesions.controls} control boxes were added",)
