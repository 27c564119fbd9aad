"""A writer that runs a language model in this process: transformers, in batches, from facts alone.

Each process loads the model for itself, so a build wants `workers=1` here; batches keep the device busy. Decoding is not
constrained to the form of the reply: it is read leniently, and what cannot be read is asked again or refused by name. Equal
input gives equal text: sampling noise belongs to each request, never to the batch it travels in. Knows nothing of what is
asked or what a reply means.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medclm.chat.replies import Failure, Reply
from medclm.corpus.writers.language_model import LanguageModelWriter, Wording
from medclm.corpus.writers.phrasing import Ask
from medclm.draws import generator

if TYPE_CHECKING:
    import torch

NAME = "local"


class LocalWriter(LanguageModelWriter):
    """Texts by a causal language model with a chat template; implements `contract.Writer`.

    Args:
        model: folder, or name in the local cache of transformers.
        wording: what is asked of it; `images` must be none.
        cache: folder of replies; None = every run generates anew.
        batch_size: requests that are generated together. In 16-bit precision the size may change rounding, and so a word.
        device: `cpu`, `cuda`, ...; `auto` = a GPU where there is one.

    Raises:
        ValueError: a batch size under 1, or pictures. While writing: the model cannot be loaded, or has no chat template.
    """

    def __init__(
        self,
        model: str,
        wording: Wording | None = None,
        cache: Path | None = None,
        *,
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        wording = wording or Wording()
        super().__init__(NAME, model, wording, cache)
        if wording.images != "none":
            raise ValueError(f"--images-to-writer {wording.images}: a local model gets facts only; use none")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        self._batch_size, self._device = batch_size, device
        self._engine: _Engine | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_engine": None}

    def _replies(self, asks: Sequence[Ask]) -> list[Reply | Failure]:
        found: list[Reply | Failure | None] = [self._known(ask) for ask in asks]
        missing = [at for at, reply in enumerate(found) if reply is None]
        if missing:
            self._engine = self._engine or _Engine(self._model, self._device)
            prompts = {at: self._engine.prompt(asks[at]) for at in missing}
            room = self._engine.room - self.wording.max_tokens
            for at in [at for at in missing if len(prompts[at]) > room]:
                found[at] = Failure(
                    "writer_bad_request", f"{len(prompts[at])} tokens; the model takes {max(room, 0)} and the reply"
                )
            # equal lengths together: less padding
            order = sorted((at for at in missing if found[at] is None), key=lambda at: (len(prompts[at]), at))
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                replies = self._engine.generate(
                    [prompts[at] for at in batch],
                    [asks[at].seed for at in batch],
                    max_tokens=self.wording.max_tokens,
                    temperature=self.wording.temperature or 0.0,
                )
                self._usage.add(requests=len(batch))
                for at, reply in zip(batch, replies, strict=True):
                    self._got(asks[at], reply)
                    found[at] = reply
        return [reply for reply in found if reply is not None]


class _Engine:
    """A loaded model."""

    def __init__(self, model: str, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", trust_remote_code=False)
            network = AutoModelForCausalLM.from_pretrained(
                model, dtype="auto", trust_remote_code=False, use_safetensors=True
            )  # neither the model's own code nor pickles are run
            self._network = network.to(device).eval()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--model: transformers cannot load it as a causal language model with safetensors ({type(error).__name__})"
            ) from error
        if self._tokenizer.chat_template is None:
            raise ValueError("--model: its tokenizer has no chat template: use an instruction-tuned model")
        stops = self._network.generation_config.eos_token_id
        stops = self._tokenizer.eos_token_id if stops is None else stops
        self._stops = frozenset(stops if isinstance(stops, list) else [] if stops is None else [stops])
        pad = self._tokenizer.pad_token_id
        self._pad = pad if pad is not None else min(self._stops, default=0)
        self.room = int(getattr(self._network.config, "max_position_embeddings", None) or 1 << 30)
        """Tokens that prompt and reply may have together."""

    def prompt(self, ask: Ask) -> list[int]:
        """Token ids; the rules stand in the user's turn, since not every template knows a system."""
        turn = [{"role": "user", "content": f"{ask.system}\n\n{ask.user}"}]
        text = self._tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def generate(self, prompts: list[list[int]], seeds: list[int], *, max_tokens: int, temperature: float) -> list[Reply]:
        """Replies to B prompts of token ids, padded on the left to T."""
        import torch
        from transformers import LogitsProcessorList

        longest = max(map(len, prompts))
        rows = [[self._pad] * (longest - len(ids)) + ids for ids in prompts]
        seen = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        device = self._network.device
        config = copy.deepcopy(self._network.generation_config)
        config.update(do_sample=False, temperature=None, top_p=None, top_k=None, num_beams=1, max_length=None)
        config.update(max_new_tokens=max_tokens, pad_token_id=self._pad, eos_token_id=sorted(self._stops) or None)
        with torch.inference_mode():
            out_BT = self._network.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(seen, device=device),
                generation_config=config,
                logits_processor=LogitsProcessorList([_Noise(seeds, temperature)] if temperature else []),
            )
        return [self._reply(ids, new[longest:]) for ids, new in zip(prompts, out_BT.tolist(), strict=True)]

    def _reply(self, prompt: list[int], new: list[int]) -> Reply:
        end = next((at for at, token in enumerate(new) if token in self._stops), None)
        kept = new if end is None else new[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        return Reply(text, "length" if end is None else "stop", prompt_tokens=len(prompt), completion_tokens=len(kept))


class _Noise:
    """Sampling as a logits processor: the likeliest word after Gumbel noise is a draw from softmax(logits / temperature)
    (Gumbel 1954), and the noise of a row depends on (its seed, the step) alone, so that a row's neighbours do not matter."""

    def __init__(self, seeds: list[int], temperature: float) -> None:
        self._seeds, self._temperature, self._step = seeds, temperature, 0

    def __call__(self, input_ids: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        import torch

        noise = [generator(seed, "writer.local", self._step).gumbel(size=scores_BV.shape[1]) for seed in self._seeds]
        self._step += 1
        noise_BV = torch.from_numpy(np.stack(noise).astype(np.float32)).to(scores_BV.device)
        return scores_BV.float() / self._temperature + noise_BV
