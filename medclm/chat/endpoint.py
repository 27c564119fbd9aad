"""Where a language model answers and how it may be asked: address, limits, patience, and whether pictures may go there.

An address counts as this machine only if all that its name resolves to is loopback. Everything else is refused unless it is
allowed, and even then only images whose source is shareable are told of. Knows no client and no draft.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server; nothing here decides what a text says.

    Raises:
        ValueError: an address that is none, holds a password, or lies elsewhere without `allow_remote`; a limit out of range.
    """

    base_url: str
    """With the version, e.g. `http://127.0.0.1:8000/v1`."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable of the key; read when the first request is made, and kept nowhere."""
    timeout: float = 120.0
    """Seconds for one request."""
    concurrency: int = 8
    """Requests at once, per process."""
    requests_per_minute: float | None = None
    """Per process; None = no limit."""
    tokens_per_minute: float | None = None
    """Prompt and reply together, per process; None = no limit."""
    tries: int = 5
    """Requests for one reply before it is given up, the first included."""
    first_wait: float = 0.5
    """Seconds before the second try; doubled each time."""
    most_wait: float = 60.0
    """Seconds at most between two tries; a server that asks for more is given up."""
    allow_remote: bool = False
    """The server may be another machine."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("--base-url: give http://HOST:PORT/v1 or https://HOST/v1")
        if "@" in parts.netloc:
            raise ValueError("--base-url: holds a user name or password: put the key into an environment variable")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_variable):
            raise ValueError("--api-key-variable: give the name of an environment variable, not the key itself")
        for name, low in (("timeout", 0.0), ("first_wait", 0.0), ("most_wait", 0.0), ("concurrency", 1), ("tries", 1)):
            value = getattr(self, name)
            if not (value >= low and value > 0 and value != float("inf")):
                raise ValueError(f"{name}={value}: give {'at least 1' if low else 'a number above 0'}")
        if not self.allow_remote and self.remote():
            raise ValueError(
                f"--base-url: {parts.hostname} is not this machine (127.0.0.0/8, ::1): what is known of the images would leave it. "
                "Give --allow-remote if that is meant; then only images of sources with --shareable are sent"
            )

    def remote(self) -> bool:
        """Whether requests leave this machine: asked anew each time, since names may come to mean something else."""
        return not is_loopback(urlsplit(self.base_url).hostname or "")

    def api_key(self) -> str:
        """The key; for this machine any word will do where none is set.

        Raises:
            ValueError: no key for another machine.
        """
        key = os.environ.get(self.api_key_variable, "")
        if not key and self.remote():
            raise ValueError(
                f"--api-key-variable {self.api_key_variable}: the variable is empty: put the key of --base-url there"
            )
        return key or "none"


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is 127.0.0.0/8 or ::1; a name that resolves to nothing is not."""
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(address) for address in found]
    return bool(addresses) and all((getattr(each, "ipv4_mapped", None) or each).is_loopback for each in addresses)
