"""What all families share that transformers implements: build, count, freeze, adapt, export, open.

A family is a subclass that names its classes and says how its processor and its tiny configuration are made. Knows nothing of
DeepSpeed, corpora or the curriculum; under ZeRO-3 it is transformers that notices and shards at birth.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import nn

from medclm.config import FAMILY_BOX_TEXT, BoxTextSection, ModelSection
from medclm.models import lora
from medclm.models.attention import choose_attention, surroundings
from medclm.models.export import base_of, completed, write_network
from medclm.models.freezing import freeze, parameter_counts, pass_over_unread
from medclm.models.objective import Objective
from medclm.models.packed_attention import takes_packed
from medclm.models.processor import WrappedProcessor, is_local
from medclm.models.protocol import Processor
from medclm.models.weights import new_network, open_weights, read_config, seeded
from medclm.types import LossWeights

LANGUAGE_MODEL = "model.language_model"

P = TypeVar("P", bound=WrappedProcessor)


class TransformersFamily(ABC, Generic[P]):
    """A `ModelFamily` (models/protocol.py) whose network has `.model` with `.language_model`, and `.lm_head`."""

    name: ClassVar[str]
    """As `model.family` gives it."""
    network_class: ClassVar[Any]
    """Of transformers, with a language-model head."""
    config_class: ClassVar[Any]
    """Its configuration."""

    @property
    def box_text(self) -> BoxTextSection:
        """See `ModelFamily.box_text`."""
        return FAMILY_BOX_TEXT[self.name]

    @abstractmethod
    def processor(self, section: ModelSection, texts: Sequence[str] = ()) -> P:
        """See `ModelFamily.processor`."""

    @abstractmethod
    def opened_processor(self, folder: Path) -> P:
        """The processor of an export or of any local folder of the family.

        Raises:
            ValueError: no such folder, or its files are not a processor's of this family.
        """

    @abstractmethod
    def tiny_config(self, section: ModelSection, processor: P | None) -> Any:
        """The configuration of `path: tiny`; without a processor, its vocabulary is at its upper bound.

        Raises:
            ValueError: sizes that do not fit together.
        """

    @abstractmethod
    def published_config(self, hub_id: str) -> Any:
        """The configuration by which the parameters of a hub id are counted, since nothing is fetched for that."""

    @abstractmethod
    def check_agreement(self, processor: P, config: Any, path: str) -> None:
        """Raise ValueError with the numbers unless processor and network mean the same image span and vocabulary."""

    @abstractmethod
    def spread_positions(self, network: Any) -> None:
        """Start the positions of a tiny vision tower where it can learn from them."""

    def build(self, section: ModelSection, processor: Processor, dtype: torch.dtype, seed: int) -> nn.Module:
        """See `ModelFamily.build`. The same seed gives the same weights on every rank."""
        attention = takes_packed(choose_attention(section.attention, surroundings(dtype)))
        tiny = section.path == "tiny"
        ours: Any = processor  # one that this family made
        config = self.tiny_config(section, ours) if tiny else self._config(section.path)
        self.check_agreement(ours, config, section.path)
        network: nn.Module
        with seeded(seed, "model.weights"):
            if tiny:
                network = new_network(self.network_class, config, dtype, attention)
                self.spread_positions(network)
            else:
                network = open_weights(self.network_class, section.path, dtype, attention)
        if section.lora.rank:
            with seeded(seed, "model.lora"):
                lora.add_adapters(network, section.lora, inside=LANGUAGE_MODEL)
        freeze(network, section)
        pass_over_unread(network)
        return network

    def skeleton(self, section: ModelSection, dtype: torch.dtype, processor: Processor | None = None) -> nn.Module:
        """See `ModelFamily.skeleton`. A hub id that is not on this machine is taken to have the published layout.

        Flash kernels and sdpa keep the same tensors, so that the skeleton needs none of them installed.
        """
        ours: Any = processor
        if section.path == "tiny":
            config = self.tiny_config(section, ours)
        else:
            config = self._config(section.path) if is_local(section.path) else self.published_config(section.path)
        with torch.device("meta"):
            network = new_network(
                self.network_class, config, dtype, "eager" if section.attention == "eager" else takes_packed("sdpa")
            )
            if section.lora.rank:
                lora.add_adapters(network, section.lora, inside=LANGUAGE_MODEL)
        freeze(network, section)
        pass_over_unread(network)
        network.train()
        return network  # type: ignore[no-any-return]

    def stand_in(self, section: ModelSection) -> P:
        """See `ModelFamily.stand_in`."""
        known = section.path == "tiny" or is_local(section.path)
        return self.processor(section) if known else self.published_stand_in(section)

    @abstractmethod
    def published_stand_in(self, section: ModelSection) -> P:
        """The same for a hub id."""

    def count_parameters(self, section: ModelSection) -> dict[str, tuple[int, int]]:
        """Group -> (all, trained) parameters, from the configuration alone; the tiny vocabulary at its upper bound.

        Nothing is fetched: a hub id that is not on this machine is counted in the published layout.

        Raises:
            ValueError: as `build`, weights and attention aside.
        """
        return parameter_counts(self.skeleton(section, torch.float32))

    def objective(self, model: nn.Module, processor: Processor, weights: LossWeights) -> Objective:
        """See `ModelFamily.objective`."""
        return Objective(model, processor, weights)

    def export(
        self, model: nn.Module, processor: Processor, folder: Path, state: dict[str, torch.Tensor], merge_lora: bool = True
    ) -> None:
        """Write `state` as a plain transformers folder, or with `merge_lora=False` adapters apart from their base.

        Apart means a peft folder with the adapters and the trained projector; where the base is no folder (the tiny model),
        it is written beside them as `base/`. The folder appears whole or not at all; an older one is replaced.

        Args:
            state: full names of `model`, on the CPU. Frozen names may be left out where `model` holds them whole.

        Raises:
            ValueError: names are missing from `state`, or adapters apart from a trained vision tower.
        """
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            write_network(model, completed(model, state), part, merge_lora)
            processor.save(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    def load_export(self, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, P]:
        """Open an export, merged or apart, or any local folder of the family, for generation.

        Raises:
            ValueError: missing folder, another architecture, weights that do not fit, a base that is gone.
        """
        folder = Path(folder)
        processor = self.opened_processor(folder)
        attention = choose_attention("auto", surroundings(dtype))
        if not (folder / "adapter_config.json").is_file():
            self.check_agreement(processor, self._config(folder), str(folder))
            return open_weights(self.network_class, folder, dtype, attention).eval(), processor
        from peft import PeftModel

        base = base_of(folder)
        self.check_agreement(processor, self._config(base), base)
        if not (folder / "adapter_model.safetensors").is_file():
            raise ValueError(
                f"{folder}: no adapter_model.safetensors: pickled adapters are not opened, save them as safetensors"
            )
        network = open_weights(self.network_class, base, dtype, attention)
        adapted = PeftModel.from_pretrained(network, str(folder), use_safetensors=True)
        return adapted.get_base_model().eval(), processor  # not merged: in bf16 that would round what was trained

    def _config(self, path: str | Path) -> Any:
        return read_config(self.config_class, path, self.name)
