"""What the processors of all families share: the prompt's frame, token ids, normalised pixels.

Wraps the transformers processor of a checkpoint folder and takes from it the tokenizer, the chat template and the image
statistics. Knows nothing of weights; safe to call from many threads.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medclm.config import Tiles
from medclm.models.tiles import COUNTS, SCALES, WHOLE, views_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class WrappedProcessor(ABC):
    """A `Processor` (models/protocol.py) over a transformers one; a family adds its sizes and what its network takes."""

    def __init__(self, inner: Any, *, view_size: int, patch_size: int, view_tokens: int, tiles: Tiles = WHOLE) -> None:
        """Read everything once.

        Args:
            inner: has tokenizer, image_processor, image_token, image_token_id, chat_template.
            view_size: side S in pixels of what the vision tower looks at.
            patch_size: side in pixels of what one image token shows.
            view_tokens: length of a view's span in the prompt.
            tiles: the views of a picture.

        Raises:
            ValueError: no end or pad token, or a template that loses the question or the picture.
        """
        self.inner, self.tiles, self.patch_size = inner, tiles, patch_size
        self.view_size, self.image_size = view_size, SCALES[tiles] * view_size
        self.view_tokens, self.image_tokens = view_tokens, COUNTS[tiles] * view_tokens
        self.tokenizer = inner.tokenizer
        self._backend = self.tokenizer.backend_tokenizer
        self._backend.no_padding()  # stored settings of some folders would pad or cut behind our back
        self._backend.no_truncation()
        self.image_token_id = int(inner.image_token_id)
        self.eos_id = _token(self.tokenizer, "eos")
        self.pad_id = _token(self.tokenizer, "pad")
        self._spaced = self._backend.encode("x", add_special_tokens=False).tokens[0].startswith("\u2581")
        self.before, self.after = self._frame()
        self._scale, self._shift = _normalisation(inner.image_processor)

    @abstractmethod
    def framed(self, question: str) -> str:
        """A question in the prompt's frame, with one image token, up to where the completion begins."""

    @abstractmethod
    def image_inputs(self, pixels_ichw: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `Processor.image_inputs`."""

    @abstractmethod
    def position_ids(self, ids_bt: torch.Tensor, places_bt: torch.Tensor) -> torch.Tensor:
        """See `Processor.position_ids`."""

    def prompt_ids(self, question: str) -> list[int]:
        """Ids of the framed question with the span of each view expanded; the beginning-of-sequence token, if any, included.

        Raises:
            ValueError: the question itself contains the image token.
        """
        ids = self._backend.encode(f"{self.before}{question}{self.after}").ids
        if ids.count(self.image_token_id) != COUNTS[self.tiles]:
            raise ValueError(f"question {question!r} contains the image token {self.inner.image_token}: remove it")
        return [one for i in ids for one in ([i] * self.view_tokens if i == self.image_token_id else [i])]

    def text_ids(self, text: str) -> list[int]:
        """Ids of a piece of target text without special tokens: decoded pieces joined are the joined texts."""
        if not self._spaced:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        # A SentencePiece tokenizer puts a space before whatever it is given. A line break, which never merges with what
        # follows, takes that space, and both are cut off again.
        anchor = self._backend.encode("\n", add_special_tokens=False).ids
        return list(self._backend.encode("\n" + text, add_special_tokens=False).ids[len(anchor) :])

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end of sequence, special tokens dropped."""
        kept = [int(i) for i in ids]
        kept = kept[: kept.index(self.eos_id)] if self.eos_id in kept else kept
        return str(self._backend.decode(kept, skip_special_tokens=True))

    def pixel_values(self, image: Image.Image) -> np.ndarray:
        """(V, 3, S, S) float32: the views, scaled and normalised as the checkpoint's image processor does.

        Raises:
            ValueError: the picture is not the square of side `image_size`.
        """
        if image.size != (self.image_size, self.image_size):
            raise ValueError(
                f"image is {image.width} x {image.height} pixels, the model takes {self.image_size} x {self.image_size}"
            )
        views = views_of(image.convert("RGB"), self.tiles)
        values_vchw = np.empty((len(views), 3, self.view_size, self.view_size), np.float32)
        # channel by channel into its place: interleaved floats, turned around afterwards, take eight times as long
        for values_chw, view in zip(values_vchw, views, strict=True):
            for plane_hw, channel, scale, shift in zip(values_chw, view.split(), self._scale, self._shift, strict=True):
                plane_hw[:] = np.asarray(channel)
                plane_hw *= scale
                plane_hw += shift
        return values_vchw

    def check_image_span(self, ids: Sequence[int]) -> None:
        """Raise ValueError unless the image token stands exactly once per vision feature."""
        found = int(np.count_nonzero(np.asarray(ids) == self.image_token_id))
        if found != self.image_tokens:
            raise ValueError(
                f"the sequence has {found} image tokens, the vision tower gives {self.image_tokens} features for "
                f"{COUNTS[self.tiles]} view(s) of {self.view_size} px and patches of {self.patch_size} px: a text contains "
                f"{self.inner.image_token}, or it was cut"
            )

    def save(self, folder: Path) -> None:
        """Write tokenizer, image processor and chat template in the transformers layout."""
        self.inner.save_pretrained(folder)

    def _frame(self) -> tuple[str, str]:
        """What stands before and after the question, without the beginning of sequence that the tokenizer adds."""
        slot, views = "QUESTIONSLOT", COUNTS[self.tiles]
        framed = self.framed(slot)
        bos = self.tokenizer.bos_token
        if bos and framed.startswith(bos):
            framed = framed[len(bos) :]
        before, found, after = framed.partition(slot)
        if not found or before.count(self.inner.image_token) + after.count(self.inner.image_token) != views:
            wanted = "one" if views == 1 else f"{views} times (model.tiles={self.tiles})"
            raise ValueError(
                f"the processor's chat template must show the question and {wanted} {self.inner.image_token}: it gave {framed!r}"
            )
        return before, after


def templated(inner: Any, question: str, views: int = 1) -> str:
    """A picture of so many views and a question in the chat template of a transformers processor or tokenizer."""
    content: list[dict[str, str]] = [*[{"type": "image"}] * views, {"type": "text", "text": question}]
    return str(inner.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True))


def is_local(path: str | Path) -> bool:
    """True for a folder; False for a hub id (`owner/name`), the only thing that is ever fetched.

    Raises:
        ValueError: neither.
    """
    if Path(path).is_dir():
        return True
    if isinstance(path, Path) or not HUB_ID.fullmatch(path):
        raise ValueError(f"model.path={path}: no such folder; give a folder in the transformers layout, a hub id or `tiny`")
    return False


def _token(tokenizer: Any, which: str) -> int:
    value = getattr(tokenizer, f"{which}_token_id")
    if value is None:
        raise ValueError(f"the tokenizer has no {which} token: name one in tokenizer_config.json")
    return int(value)


def _normalisation(image_processor: Any) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset per channel, (3,) float32 each, that turn 0..255 into the vision tower's input."""
    scale = float(image_processor.rescale_factor) if image_processor.do_rescale else 1.0
    if not image_processor.do_normalize:
        return np.full(3, scale, np.float32), np.zeros(3, np.float32)
    mean = np.asarray(image_processor.image_mean, np.float64)
    std = np.asarray(image_processor.image_std, np.float64)
    return (scale / std).astype(np.float32), (-mean / std).astype(np.float32)
