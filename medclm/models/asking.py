"""How to ask an export without MedCLM: its prompt, its square picture, its boxes, and short code that does all three.

The code needs transformers, torch and Pillow alone; tests run it elsewhere and compare. It says in Python what
medclm/data/frame.py does, written out for one model's settings.
"""

from __future__ import annotations

from typing import Any

from medclm.config import DataSection, Tiles
from medclm.data.draw import COLOURS
from medclm.data.frame import ImageFrame
from medclm.data.render import BEGINS, INSTRUCTIONS
from medclm.models.processor import WrappedProcessor
from medclm.models.protocol import Processor
from medclm.models.qwen3_vl_processor import Qwen3VlProcessor
from medclm.types import Box

EXAMPLE_SIZE = (1000, 800)
"""Width and height of the worked example's picture in pixels."""
EXAMPLE_BOX_PX = (250.0, 200.0, 500.0, 400.0)
EXAMPLE_QUESTION = "What is the finding in this image?"
MAX_NEW_TOKENS = 256


def asking_facts(processor: Processor, data: DataSection) -> dict[str, Any]:
    """What one must know to ask an export of this processor, trained with these settings, as JSON.

    `prompt` is what stands before and after a question; the tokenizer puts its beginning of sequence in front. `example` has
    a box in pixels of a picture and as the model writes it. `code` is Python that runs in the folder of the export.
    """
    assert isinstance(processor, WrappedProcessor)
    (width, height), side = EXAMPLE_SIZE, processor.image_size
    frame = ImageFrame(width, height, side=side, fit=data.fit)
    written = frame.write(Box(*EXAMPLE_BOX_PX).scaled(1 / width, 1 / height), data.box_text)
    before, after = processor.before, processor.after
    return {
        "side": side,
        "tiles": processor.tiles,
        "fit": data.fit,
        "prompt": {"before": before, "after": after},
        "instructions": dict(INSTRUCTIONS),
        "begins": dict(BEGINS),
        "pointing": {"colours": [name for name, _ in COLOURS], "line_px": max(1, round(data.prompt_line * side / 336))},
        "box_text": data.box_text.model_dump(mode="json"),
        "example": {"size": list(EXAMPLE_SIZE), "box_px": list(EXAMPLE_BOX_PX), "written": written},
        "code": asking_code(processor, data),
    }


def asking_code(processor: WrappedProcessor, data: DataSection) -> str:
    """Python that asks the export in the working folder about `picture.png`, and reads the reply's boxes back."""
    side, opening = processor.image_size, _IN_PARTS if isinstance(processor, Qwen3VlProcessor) else _TOGETHER
    return _CODE.format(
        side=side,
        square="\n    ".join(_SQUARE[data.fit]),
        views=_VIEWS[processor.tiles],
        **{
            part: text.format(image=processor.inner.image_token, images=_IMAGES[processor.tiles])
            for part, text in opening.items()
        },
        before=processor.before,
        after=processor.after,
        question=EXAMPLE_QUESTION,
        instruction="\n" + INSTRUCTIONS["reason"],
        max_new_tokens=MAX_NEW_TOKENS,
        to_pixels="\n    ".join(_to_pixels(side, data)),
    )


_SQUARE = {
    "pad": (
        "longest = max(picture.size)",
        'canvas = Image.new("RGB", (longest, longest))',
        "canvas.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))",
        "return canvas.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)",
    ),
    "stretch": ("return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)",),
}


_VIEWS: dict[Tiles, str] = {
    "1": "",
    "1+4": '''
def views(picture):
    """The square made smaller, then its quarters, row by row: what the prompt's <image> stand for."""
    half = SIDE // 2
    corners = [(0, 0), (half, 0), (0, half), (half, half)]
    overview = picture.resize((half, half), Image.Resampling.BICUBIC)
    return [overview] + [picture.crop((x, y, x + half, y + half)) for x, y in corners]


''',
}
_IMAGES: dict[Tiles, str] = {"1": "square(picture)", "1+4": "views(square(picture))"}


def _to_pixels(side: int, data: DataSection) -> list[str]:
    """Lines that give `across`, `down` (picture pixels per written number) and `left`, `top` (of the padding, in picture pixels)."""
    section, padded = data.box_text, data.fit == "pad"
    in_square = section.frame == "padded"
    largest = side if section.scale == "px" else int(section.scale)
    per = "" if largest == 1 else f" / {largest}"
    if padded and (in_square or (section.frame == "resized" and section.scale == "px")):
        lines = [f"across = down = max(width, height){per}"]
    elif section.frame == "original" and section.scale == "px":
        lines = ["across = down = 1"]
    else:
        lines = [f"across, down = width{per}, height{per}"]
    if padded and in_square:
        return [*lines, "left, top = (max(width, height) - width) // 2, (max(width, height) - height) // 2"]
    return [*lines, "left = top = 0"]


_TOGETHER = {
    "classes": "AutoModelForImageTextToText, AutoProcessor",
    "open": "processor = AutoProcessor.from_pretrained(FOLDER)",
    "inputs": 'inputs = processor(text=prompt, images={images}, return_tensors="pt")',
    "decoder": "processor",
}
"""What the code has of a family whose processor opens whole."""
_IN_PARTS = {
    "classes": "AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer",
    "open": """\
tokenizer = AutoTokenizer.from_pretrained(FOLDER)  # AutoProcessor would join the two, and need torchvision for videos
pictures = AutoImageProcessor.from_pretrained(FOLDER)""",
    "inputs": """\
inputs = dict(pictures(square(picture), return_tensors="pt"))
span = "{image}" * (int(inputs["image_grid_thw"].prod()) // pictures.merge_size**2)
inputs |= tokenizer(prompt.replace("{image}", span), return_tensors="pt")
inputs["mm_token_type_ids"] = (inputs["input_ids"] == tokenizer.convert_tokens_to_ids("{image}")).long()""",
    "decoder": "tokenizer",
}
"""What it has where tokenizer and image processor are opened apart."""

_CODE = '''\
import re

from PIL import Image
from transformers import {classes}

FOLDER = "."  # the folder of this file
SIDE = {side}


def square(picture):
    """The model's square of a picture; nothing is cropped."""
    {square}

{views}
def boxes(reply, width, height):
    """Boxes of a reply as (x0, y0, x1, y1) in pixels of the picture, which is width x height."""
    {to_pixels}
    found = []
    for inside in re.findall(r"\\[([-+\\d., ]+)\\]", reply):
        numbers = [float(one) for one in re.findall(r"[-+]?(?:\\d+\\.?\\d*|\\.\\d+)", inside)]
        if len(numbers) == 4 and numbers[0] < numbers[2] and numbers[1] < numbers[3]:
            x0, y0, x1, y1 = numbers
            found.append((x0 * across - left, y0 * down - top, x1 * across - left, y1 * down - top))
    return found


{open}
model = AutoModelForImageTextToText.from_pretrained(FOLDER).eval()

picture = Image.open("picture.png").convert("RGB")
question = {question!r}
prompt = {before!r} + question + {instruction!r} + {after!r}
{inputs}
tokens = model.generate(**inputs, max_new_tokens={max_new_tokens}, do_sample=False)[0, inputs["input_ids"].shape[1] :]
reply = {decoder}.decode(tokens, skip_special_tokens=True)
print(reply)
for box in boxes(reply, *picture.size):
    print([round(edge) for edge in box])
'''
