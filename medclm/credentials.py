"""Passwords and tokens have no place in an address: found in a URI, and taken out of a text that may quote one.

A tracking URI is written to recipes, parameters and messages, so one with a password is refused; what a library says of a
failed request may still hold one (a proxy's, a signed upload's), so its words pass through `redacted`.
"""

from __future__ import annotations

import os
import re

IN_THE_ENVIRONMENT = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables that the MLflow client reads itself; their values never appear in a text of ours."""
_HIDDEN = "***"
_SECRET_WORD = "token|password|passwd|secret|signature|credential|api[-_]?key|access[-_]?key"
_USER = re.compile(r"(?<=://)[^\s'\"<>]*@")
_QUERY = re.compile(rf"(?i)([?&;][^=&\s'\"]*(?:{_SECRET_WORD}|\bsig)[^=&\s'\"]*=)[^&\s'\"<>)]+")
_HEADER = re.compile(r"(?i)\b(Basic|Bearer)\s+[\w.~+/=-]{8,}")
_NO_SERVER = ("file", "sqlite")


def has_credentials(uri: str) -> bool:
    """Whether a store's URI carries a password or token. The user's name alone counts for a server, since it may be a token."""
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return re.match(r"[^/\\]+:.*@", uri) is not None  # user:password@host, and the scheme forgotten
    scheme = scheme.split("+")[0].lower()
    if scheme in _NO_SERVER:
        return False
    user = _USER.search(uri)
    named = user is not None and (scheme in ("http", "https") or ":" in user.group())
    return named or _QUERY.search(uri) is not None


def redacted(text: str) -> str:
    """The text without what stands before the @ of an address, without secret query values, headers and known passwords."""
    for name in IN_THE_ENVIRONMENT:
        if value := os.environ.get(name):
            text = text.replace(value, _HIDDEN)
    text = _USER.sub(f"{_HIDDEN}@", text)
    text = _QUERY.sub(rf"\1{_HIDDEN}", text)
    return _HEADER.sub(rf"\1 {_HIDDEN}", text)


def reason(error: BaseException) -> str:
    """One line that says what went wrong, at most 300 characters, redacted."""
    first = (redacted(str(error)).splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
