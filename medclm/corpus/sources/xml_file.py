"""XML files read as a whole, safely: no entities, no document types, no more tags than fit. Must not know any format."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

MAX_BYTES = 1 << 29
MAX_TAGS = 5_000_000
"""Three letters of a file may be an element of a hundred bytes and more in memory."""
_CHUNK = 1 << 20


class XmlTooLarge(ValueError):
    """A file that would fill the memory; names no file."""


def parse_xml(file: Path) -> Element | None:
    """The outermost element.

    Raises:
        XmlTooLarge, DefusedXmlException (entities or a document type), ParseError, OSError; ValueError or LookupError for an
        unknown or wrong encoding.
    """
    if file.stat().st_size > MAX_BYTES:
        raise XmlTooLarge(f"more than {MAX_BYTES} bytes: split it")
    with file.open("rb") as stream:
        if sum(chunk.count(b"<") for chunk in iter(lambda: stream.read(_CHUNK), b"")) > MAX_TAGS:
            raise XmlTooLarge(f"more than {MAX_TAGS} tags: split it")
        stream.seek(0)
        found: Element | None = parse(stream, forbid_dtd=True).getroot()
    return found


def read_xml(file: Path, tag: str) -> Element:
    """The outermost element of a file, which must be <`tag`>.

    Raises:
        ValueError: missing, too large, not well-formed, with entities or a document type, or with another outermost element;
            names file, line and cure.
    """
    try:
        root = parse_xml(file)
    except XmlTooLarge as error:
        raise ValueError(f"{file}: {error}") from error
    except DefusedXmlException as error:
        raise ValueError(
            f"{file}: {type(error).__name__}: annotations need no entities or document type: remove them"
        ) from error
    except ParseError as error:
        line, column = error.position
        raise ValueError(f"{file}:{line}:{column}: not well-formed XML: correct it or export it again") from error
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}: give an existing XML file") from error
    except (ValueError, LookupError) as error:  # unknown or wrong encoding
        raise ValueError(f"{file}: {type(error).__name__}: save the file as UTF-8 XML") from error
    if root is None or root.tag != tag:
        raise ValueError(f"{file}: the outermost element is not <{tag}>: give a file of that format")
    return root
