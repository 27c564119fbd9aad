"""Decoding in a process of its own, for the decoder that may end the one it runs in.

gdcm is the only free decoder here for JPEG-LS and lossless JPEG; some broken frames make it abort. The child is started with the
first such frame, serves all later ones, and is started again after a death. It ends with its parent. POSIX only.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import medclm
from medclm.corpus.contract import RejectedImage

TIMEOUT_S = 120.0
"""A frame that takes longer is given up."""


class _Child:
    """The decoding process of this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._owner = 0

    def ask(self, code: bytes, syntax: str, options: dict[str, Any]) -> Any:
        """What the child answers; None where it died or was given up."""
        pipe = self._running()
        try:
            pipe.send((code, syntax, options))
            if pipe.poll(TIMEOUT_S):
                return pipe.recv()
        except (EOFError, OSError):
            pass
        self.end()
        return None

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _running(self) -> Connection:
        if self._pipe is None or self._owner != os.getpid():  # a forked process must not share its parent's child
            self._pipe, theirs = Pipe()
            # the rest of the environment may hold keys, which are none of a decoder's business
            known = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
            paths = [str(Path(medclm.__file__).parents[1]), *filter(None, [known.get("PYTHONPATH")])]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**known, "PYTHONPATH": os.pathsep.join(paths)},
            )
            theirs.close()
            self._owner = os.getpid()
            atexit.register(self.end)
        return self._pipe


_CHILD = _Child()


def decode_elsewhere(code: bytes, syntax: str, options: dict[str, Any]) -> np.ndarray:
    """One coded frame -> the array that pydicom makes of it.

    Args:
        code: the value of a pixel element that holds this frame alone.
        syntax: its transfer syntax.
        options: of `pydicom.pixels` decoders; plain values.

    Raises:
        RejectedImage: image_unreadable, where the decoder refuses the frame, dies of it or does not end; transfer_syntax_unsupported.
    """
    plain = {name: value if isinstance(value, (int, float, bytes)) else str(value) for name, value in options.items()}
    answer = _CHILD.ask(code, syntax, plain)
    if isinstance(answer, np.ndarray):
        return answer
    if answer == "NotImplementedError":
        raise RejectedImage("transfer_syntax_unsupported", "no decoder for this kind of coding: convert it to another syntax")
    raise RejectedImage(
        "image_unreadable", f"its decoder {'died' if answer is None else f'stopped with {answer}'}: fetch or convert it again"
    )


def _serve(pipe: Connection) -> None:
    """Answers until the pipe ends: an array, or the name of an error."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    with suppress(EOFError, OSError):
        while True:
            code, syntax, options = pipe.recv()
            try:
                options["transfer_syntax_uid"] = UID(syntax)
                stored, _ = get_decoder(UID(syntax)).as_array(code, index=0, **options)
                pipe.send(np.asarray(stored))
            except Exception as error:  # a decoder raises anything; the parent only counts it
                pipe.send(type(error).__name__)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
