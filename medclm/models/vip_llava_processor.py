"""Texts and pictures of ViP-LLaVA <-> numbers. One frame serves training, evaluation and prediction.

Wraps the transformers processor of a checkpoint folder and takes from it the tokenizer, the chat template, the image
statistics and the sizes. Knows nothing of weights; safe to call from many threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PREAMBLE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the human's questions."
)
FRAME = PREAMBLE + "###Human: {image}\n{question}###Assistant:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class VipLlavaProcessor:
    """A `Processor` (models/protocol.py) over a transformers `LlavaProcessor`."""

    def __init__(self, inner: Any) -> None:
        """Read everything once.

        Args:
            inner: what `AutoProcessor.from_pretrained` gives for a ViP-LLaVA folder.

        Raises:
            ValueError: no image token, no end or pad token, a template that loses the question, sizes that are not stated.
        """
        self.inner = inner
        self.tokenizer = inner.tokenizer
        self._backend = self.tokenizer.backend_tokenizer
        self._backend.no_padding()  # stored settings of some folders would pad or cut behind our back
        self._backend.no_truncation()
        self.image_size = int(inner.image_processor.crop_size["height"])
        self.patch_size: int = _stated(inner, "patch_size", "14")
        self.image_tokens: int = self._count_image_tokens()
        self.image_token_id = int(inner.image_token_id)
        self.eos_id = _token(self.tokenizer, "eos")
        self.pad_id = _token(self.tokenizer, "pad")
        self._spaced = self._backend.encode("x", add_special_tokens=False).tokens[0].startswith("\u2581")
        self._before, self._after = self._frame()
        self._scale, self._shift = _normalisation(inner.image_processor)

    def prompt_ids(self, question: str) -> list[int]:
        """Ids of the framed question with the image span expanded; the beginning-of-sequence token included.

        Raises:
            ValueError: the question itself contains the image token.
        """
        ids = self._backend.encode(f"{self._before}{question}{self._after}").ids
        if ids.count(self.image_token_id) != 1:
            raise ValueError(f"question {question!r} contains the image token {self.inner.image_token}: remove it")
        at = ids.index(self.image_token_id)
        return [*ids[:at], *[self.image_token_id] * self.image_tokens, *ids[at + 1 :]]

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
        """(3, S, S) float32: scaled and normalised as the checkpoint's image processor does, without resizing.

        Raises:
            ValueError: the picture is not S x S.
        """
        if image.size != (self.image_size, self.image_size):
            raise ValueError(
                f"image is {image.width} x {image.height} pixels, the model takes {self.image_size} x {self.image_size}"
            )
        values_chw = np.empty((3, self.image_size, self.image_size), np.float32)
        # channel by channel into its place: interleaved floats, turned around afterwards, take eight times as long
        for plane_hw, channel, scale, shift in zip(
            values_chw, image.convert("RGB").split(), self._scale, self._shift, strict=True
        ):
            plane_hw[:] = np.asarray(channel)
            plane_hw *= scale
            plane_hw += shift
        return values_chw

    def check_image_span(self, ids: Sequence[int]) -> None:
        """Raise ValueError unless the image token stands exactly once per vision feature."""
        found = int(np.count_nonzero(np.asarray(ids) == self.image_token_id))
        if found != self.image_tokens:
            raise ValueError(
                f"the sequence has {found} image tokens, the vision tower gives {self.image_tokens} features for "
                f"{self.image_size} px and patches of {self.patch_size} px: a text contains {self.inner.image_token}, or it was cut"
            )

    def save(self, folder: Path) -> None:
        """Write tokenizer, image processor and chat template in the transformers layout."""
        self.inner.save_pretrained(folder)

    def _count_image_tokens(self) -> int:
        """Number of image tokens as transformers' LlavaProcessor counts them."""
        side = self.image_size // self.patch_size
        extra = _stated(self.inner, "num_additional_image_tokens", "1")
        strategy = _stated(self.inner, "vision_feature_select_strategy", "default", kind=str)
        return int(side * side + extra - (strategy == "default"))

    def _frame(self) -> tuple[str, str]:
        """What stands before and after the question: the chat template if the folder has one, else the family's own."""
        slot = "QUESTIONSLOT"
        if self.inner.chat_template:
            content = [{"type": "image"}, {"type": "text", "text": slot}]
            framed = self.inner.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        else:
            framed = FRAME.format(image=self.inner.image_token, question=slot)
        bos = self.tokenizer.bos_token
        if bos and framed.startswith(bos):  # the tokenizer adds it
            framed = framed[len(bos) :]
        before, found, after = framed.partition(slot)
        if not found or before.count(self.inner.image_token) + after.count(self.inner.image_token) != 1:
            raise ValueError(
                f"the processor's chat template must show the question and one {self.inner.image_token}: it gave {framed!r}"
            )
        return before, after


def load_processor(path: str | Path) -> VipLlavaProcessor:
    """The processor of a local folder, or of a hub id that the user names.

    Raises:
        ValueError: no such folder, or its files are not a ViP-LLaVA processor's.
    """
    from transformers import AutoProcessor

    local = is_local(path)
    try:
        inner = AutoProcessor.from_pretrained(str(path), local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.path={path}: its processor cannot be opened: {error}") from error
    if not all(hasattr(inner, part) for part in ("image_processor", "tokenizer", "image_token_id", "patch_size")):
        raise ValueError(
            f"model.path={path}: expected a LlavaProcessor, found {type(inner).__name__}: add processor_config.json"
        )
    return VipLlavaProcessor(inner)


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


def _stated(inner: Any, name: str, usual: str, kind: type = int) -> Any:
    value = getattr(inner, name, None)
    if value is None:
        raise ValueError(f"the processor does not state {name}: write it into processor_config.json ({usual} for ViP-LLaVA 7B)")
    return kind(value)


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
