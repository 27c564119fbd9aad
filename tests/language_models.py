"""What the tests of language-model writers share: images, a model that repeats its prompt, and one that has learnt nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from medclm.chat.replies import Failure, Reply
from medclm.corpus.anatomy import link
from medclm.corpus.contract import Draft, LinkedImage, SourceAnnotation, SourceImage
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.language_model import LanguageModelWriter, Wording
from medclm.corpus.writers.phrasing import Ask, asked, texts
from medclm.types import Box


@cache
def phantoms() -> list[LinkedImage]:
    source = PhantomSource(count=60, seed=3, size=64)
    return [link(source.read(i), seed=i) for i in range(len(source))]


def drafts_of(linked: LinkedImage) -> list[Draft]:
    return Wording().template().drafts(linked, 0)


def planted(**changes) -> LinkedImage:
    """One cyst in the left kidney; whatever is not to travel holds SECRET."""
    kidney = np.zeros((60, 90), bool)
    kidney[20:50, 35:55] = True
    lesion = SourceAnnotation("annotations[0]", "SECRET class", "cyst", Box(40, 25, 48, 33), lesion_3d="SECRET lesion")
    given = {
        "index": "images[4]",
        "key": "SECRET.png",
        "pixels": np.full((60, 90), 99, np.uint8),
        "source": "SECRET source",
        "licence": "SECRET licence",
        "shareable": False,
        "annotations": (lesion,),
        "organs": {"kidney left": kidney},
        "modality": "CT",
        "plane": "axial",
        "patient_directions": "L\\P",
        "patient": "SECRET patient",
        "study": "SECRET study",
        "series": "SECRET series",
        "origin": "SECRET origin",
        "attributes": {"site": "SECRET site"},
        "report": {"findings": "SECRET report of a cyst."},
        "label_scope": ("cyst", "mass"),
    }
    return link(SourceImage(**given | changes), seed=0)


def told(draft: Draft) -> dict[str, dict[str, str]]:
    """The reply that repeats the seed."""
    seeds = dict(texts(draft))
    return {stage: {field: getattr(seeds[stage], field) for field in fields} for stage, fields in asked(draft).items()}


class Parrot(LanguageModelWriter):
    """A writer whose model repeats the seed, and answers by `moods[k]` instead to the k-th question that it hears."""

    def __init__(self, moods: dict[int, str] | None = None, wording: Wording | None = None, folder: Path | None = None) -> None:
        super().__init__("parrot", "some/where/bird", wording or Wording(asks=1), folder)
        self._moods, self._heard = moods or {}, 0

    def _replies(self, asks: Sequence[Ask]) -> list[Reply | Failure]:
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Reply | Failure:
        known = self._known(ask)
        if known is not None:
            return known
        self._heard += 1
        stages = json.loads(ask.user)["stages"]
        form = json.loads(ask.user)["form of the reply"]
        text = json.dumps({stage: {field: stages[stage][field] for field in form[stage]} for stage in form})
        reply = Reply(self._moods.get(self._heard - 1, text), prompt_tokens=ask.tokens, completion_tokens=len(text) // 4)
        self._got(ask, reply)
        return reply


def make_tiny_model(folder: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(["<pad>", "<s>", "</s>", *letters])}, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
