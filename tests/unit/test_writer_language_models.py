"""Language-model writers: every draft ends in one way, and a model in this process gives the same in any batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medclm.chat.replies import Reply
from medclm.corpus.contract import WriteRequest
from medclm.corpus.writers.language_model import LanguageModelWriter, Wording
from medclm.corpus.writers.local_writer import LocalWriter
from medclm.corpus.writers.phrasing import Ask
from tests.language_models import Parrot, drafts_of, make_tiny_model, phantoms


def test_each_draft_is_worded_or_rejected_once_and_counted():
    moods = {0: "", 1: "nothing", 2: "I cannot do that.", 5: "{}"}
    writer = Parrot(moods)
    requests = [WriteRequest(linked, 7) for linked in phantoms()[:3]]
    made = writer.write(requests)
    wanted = sum(len(drafts_of(request.linked)) for request in requests)
    drafts = [draft for some, _ in made for draft in some]
    rejects = [reject for _, some in made for reject in some]
    assert len(drafts) == wanted - 4
    assert [reject.reason for reject in rejects] == ["writer_empty", "writer_bad_json", "writer_refused", "writer_bad_json"]
    assert len({reject.index for reject in rejects}) == 4, "two drafts of a kind must not look like one reject"
    assert {draft.writer for draft in drafts} == {"parrot:bird"}
    usage = writer.usage()
    assert (usage["asked"], usage["replies"], usage["writer_bad_json"]) == (wanted, wanted, 2)
    assert writer.estimate(requests) == (wanted, usage["prompt_tokens"])


def test_a_draft_without_a_text_keeps_the_templates_where_that_is_wanted():
    writer = Parrot({0: "", 3: "nothing"}, Wording(asks=1, on_failure="template"))
    [(drafts, rejects)] = writer.write([WriteRequest(phantoms()[0], 7)])
    assert [replace(draft, writer="template") for draft in drafts] == drafts_of(phantoms()[0])
    assert [number for number, draft in enumerate(drafts) if draft.writer == "template"] == [0, 3]
    assert [reject.reason for reject in rejects] == ["writer_empty_template_kept", "writer_bad_json_template_kept"]


def test_an_unusable_reply_is_asked_again_with_the_complaint():
    heard = []

    class Listener(Parrot):
        def _one(self, ask):
            heard.append(json.loads(ask.user).get("your last reply was refused because"))
            return super()._one(ask)

    writer = Listener({0: "nothing"}, Wording(asks=2, kinds=("describe",)))
    [(drafts, rejects)] = writer.write([WriteRequest(phantoms()[0], 7)])
    assert (len(drafts), rejects) == (1, [])
    assert heard == [None, ["bad_json: no JSON object with the stages in 7 characters"]]


def test_a_later_attempt_asks_only_for_what_failed_and_asks_the_same():
    linked = max(phantoms(), key=lambda each: len(drafts_of(each)))
    first = drafts_of(linked)
    wrong = first[2]
    [(drafts, rejects)] = Parrot().write([WriteRequest(linked, 99, {wrong.key: ("easy: wrong_side: left",)})])
    assert [replace(draft, writer="template") for draft in drafts] == [draft for draft in first if draft.key == wrong.key]
    [(drafts, rejects)] = Parrot({0: ""}).write([WriteRequest(linked, 99, {wrong.key: ("easy: wrong_side: left",)})])
    assert (drafts, rejects) == ([], []), "the fault of the attempt before is its one reject"


def test_equal_requests_give_equal_texts_and_another_seed_another_prompt():
    first, again, other = Parrot(), Parrot(), Parrot()
    linked = phantoms()[0]
    assert first.write([WriteRequest(linked, 1)]) == again.write([WriteRequest(linked, 1)])
    prompts = [
        writer._ask(writer._wanted(WriteRequest(linked, seed))[0], 0) for writer, seed in ((first, 1), (again, 1), (other, 2))
    ]
    assert prompts[0] == prompts[1]
    assert prompts[0].seed != prompts[2].seed


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A Llama of two layers over bytes, with a chat template."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def asks_of(writer: LanguageModelWriter, images: int) -> list[Ask]:
    return [writer._ask(each, 0) for linked in phantoms()[:images] for each in writer._wanted(WriteRequest(linked, 5))]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_batches_give_what_one_by_one_gives(tiny_model, temperature):
    wording = Wording(max_tokens=12, max_per_image=3, temperature=temperature)
    alone, together = (LocalWriter(str(tiny_model), wording, batch_size=size, device="cpu") for size in (1, 4))
    asks = asks_of(alone, 2)
    replies = together._replies(asks)
    assert replies == alone._replies(asks)
    assert len({len(together._engine.prompt(ask)) for ask in asks}) > 1, "padding must have been needed"
    assert all(isinstance(reply, Reply) and reply.prompt_tokens > 1000 for reply in replies)
    if temperature:
        assert len({reply.text for reply in replies}) == len(asks)
        other = together._replies([replace(asks[0], seed=asks[0].seed + 1)])
        assert other[0].text != replies[0].text


def test_noise_samples_the_softmax_of_the_logits_over_the_temperature():
    import torch

    from medclm.corpus.writers.local_writer import _Noise

    logits, temperature, rows = torch.tensor([2.0, 1.0, 0.0, -3.0]), 1.7, 6000
    drawn = _Noise(list(range(rows)), temperature)(torch.zeros(rows, 1), logits.expand(rows, -1)).argmax(-1)
    expected = torch.softmax(logits / temperature, 0)
    assert torch.bincount(drawn, minlength=4) / rows == pytest.approx(expected.numpy(), abs=0.02)


def test_a_local_model_that_talks_nonsense_loses_no_draft_and_is_not_run_twice(tiny_model, tmp_path):
    wording = Wording(max_tokens=6, asks=1, max_per_image=2)
    requests = [WriteRequest(linked, 5) for linked in phantoms()[:2]]
    writer, again = (LocalWriter(str(tiny_model), wording, tmp_path / "replies", device="cpu") for _ in range(2))
    made = writer.write(requests)
    assert [len(drafts) + len(rejects) for drafts, rejects in made] == [len(writer._wanted(request)) for request in requests]
    assert {reject.reason for _, rejects in made for reject in rejects} <= {
        "writer_truncated",
        "writer_bad_json",
        "writer_empty",
    }
    assert again.write(requests) == made
    assert again._engine is None
    assert again.usage()["cache_hits"] == sum(len(rejects) for _, rejects in made) > 2


def test_a_prompt_longer_than_the_model_is_a_named_failure(tiny_model):
    writer = LocalWriter(str(tiny_model), Wording(max_tokens=8000, asks=1, max_per_image=1), device="cpu")
    [(drafts, rejects)] = writer.write([WriteRequest(phantoms()[0], 5)])
    assert (drafts, [reject.reason for reject in rejects]) == ([], ["writer_bad_request"])


def test_a_model_that_cannot_be_used_is_the_users_to_change(tmp_path, tiny_model):
    with pytest.raises(ValueError, match="--model: transformers cannot load it"):
        LocalWriter(str(tmp_path / "nothing"), device="cpu").write([WriteRequest(phantoms()[0], 5)])
    with pytest.raises(ValueError, match="--images-to-writer png"):
        LocalWriter(str(tiny_model), Wording(images="png"))
