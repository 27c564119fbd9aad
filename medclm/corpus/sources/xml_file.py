"""XML files read as a whole, safely: no entities, no document types. Must not know any format."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse


def read_xml(file: Path, tag: str) -> Element:
    """The outermost element of a file, which must be <`tag`>.

    Raises:
        ValueError: missing, not well-formed, with entities or a document type, or with another outermost element; names file,
            line and cure.
    """
    try:
        root = parse(file, forbid_dtd=True).getroot()
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
