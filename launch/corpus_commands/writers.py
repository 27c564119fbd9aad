"""Which writer words a corpus, for the commands that draft: the flags, and the writer they mean."""

import argparse
from pathlib import Path

from launch.corpus_commands.shared import Group, names
from medclm.chat.endpoint import Endpoint
from medclm.corpus.contract import Writer
from medclm.corpus.writers.language_model import Estimate, LanguageModelWriter, Wording
from medclm.corpus.writers.local_writer import LocalWriter
from medclm.corpus.writers.openai_writer import OpenAIWriter
from medclm.corpus.writers.template import KINDS, TemplateWriter

HOW = ("base_url", "api_key_variable", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "writer_cache")
"""Arguments that decide how a model is asked and not what a text says: a build goes on with others."""


def shown_flags(args: argparse.Namespace) -> tuple[str, ...]:
    """Arguments that a manifest may show; the model stands in the writer's name."""
    asked = ("images_to_writer", "temperature", "max_tokens", "on_writer_failure") if args.writer != "template" else ()
    return ("kinds", "max_per_image", *asked)


def add_writer_flags(group: Group) -> None:
    group.add_argument(
        "--writer",
        choices=("template", "openai", "local"),
        default="template",
        help="who words the texts: the templates; a model behind an OpenAI-compatible server; a transformers model in this "
        "process (use --workers 1). Models only word what the templates ask, and pass the same checks",
    )
    group.add_argument("--model", metavar="NAME", help="of the model (openai, local) or its folder (local)")
    group.add_argument("--language", default="en", help="of the texts")
    group.add_argument("--kinds", default=",".join(KINDS), metavar="LIST", help="question kinds to ask (default %(default)s)")
    group.add_argument("--max-per-image", type=int, default=6, help="records per image at most (default %(default)s)")
    group.add_argument(
        "--on-writer-failure",
        choices=("reject", "template"),
        default="reject",
        help="a draft that the model gave no usable text for is rejected by reason, or keeps the template's (default %(default)s)",
    )
    group.add_argument(
        "--images-to-writer",
        choices=("none", "png"),
        default="none",
        help="what the model sees beside facts (default %(default)s)",
    )
    group.add_argument(
        "--temperature", type=float, default=0.7, help="of sampling; negative = the server's own (default %(default)s)"
    )
    group.add_argument("--max-tokens", type=int, default=600, help="of one reply (default %(default)s)")
    group.add_argument(
        "--writer-cache",
        type=Path,
        metavar="DIR",
        help="replies on disk, shared by processes and reruns, so that nothing is asked twice (default: OUT-replies)",
    )
    _add_server_flags(group)


def _add_server_flags(group: Group) -> None:
    group.add_argument(
        "--base-url",
        default="http://127.0.0.1:8000/v1",
        metavar="URL",
        help="of the server (default %(default)s, this machine)",
    )
    group.add_argument(
        "--allow-remote", action="store_true", help="the server may be another machine; only --shareable images are sent there"
    )
    group.add_argument(
        "--api-key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the key (default %(default)s); the key itself is never a flag",
    )
    group.add_argument(
        "--concurrency",
        type=int,
        default=8,
        help="requests at once per process (openai), size of a batch (local) (default %(default)s)",
    )
    group.add_argument("--requests-per-minute", type=float, metavar="N", help="at most, all processes together")
    group.add_argument(
        "--tokens-per-minute", type=float, metavar="N", help="prompts and replies at most, all processes together"
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="of one request (default %(default)s); it is tried again",
    )


def make_writer(args: argparse.Namespace) -> Writer:
    """The writer that the flags mean; opens nothing.

    Raises:
        ValueError: flags that contradict each other or are out of range.
    """
    kinds = names(args.kinds)
    if args.writer == "template":
        return TemplateWriter(language=args.language, max_per_image=args.max_per_image, kinds=kinds)
    if not args.model:
        raise ValueError(f"--writer {args.writer} needs --model")
    wording = Wording(
        seed=args.seed,
        language=args.language,
        kinds=kinds,
        max_per_image=args.max_per_image,
        on_failure=args.on_writer_failure,
        images=args.images_to_writer,
        temperature=None if args.temperature < 0 else args.temperature,
        max_tokens=args.max_tokens,
    )
    if args.writer == "local":
        if args.workers > 1 and not args.dry_run:
            raise ValueError(f"--writer local --workers {args.workers}: every process would load the model; give --workers 1")
        return LocalWriter(args.model, wording, reply_folder(args), batch_size=args.concurrency)
    return OpenAIWriter(args.model, _endpoint(args), wording, reply_folder(args))


def _endpoint(args: argparse.Namespace) -> Endpoint:
    # a process knows its own pace alone
    shares = (limit / args.workers if limit else limit for limit in (args.requests_per_minute, args.tokens_per_minute))
    requests_per_minute, tokens_per_minute = shares
    return Endpoint(
        base_url=args.base_url,
        api_key_variable=args.api_key_variable,
        timeout=args.timeout,
        concurrency=args.concurrency,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        allow_remote=args.allow_remote,
    )


def reply_folder(args: argparse.Namespace) -> Path:
    """Where replies are kept: beside the corpus, never in it."""
    out: Path = args.out.absolute()
    return args.writer_cache or out.with_name(f"{out.name}-replies")


def print_estimate(writer: LanguageModelWriter, estimate: Estimate, *, images: int, of: int) -> None:
    """What a build of `of` images would ask, from the estimate of `images` of them."""
    share = of / max(images, 1)
    print(
        f"  {writer.name} would be asked about {round(estimate.requests * share)} times, "
        f"about {round(estimate.prompt_tokens * share)} prompt tokens, without what the checks ask again"
    )


def print_usage(before: dict[str, int], after: dict[str, int]) -> None:
    """What a build asked and spent: `read_usage` of its reply folder before and after."""
    spent = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    print(f"  writer: {', '.join(f'{name} {count}' for name, count in spent.items()) or 'nothing was asked'}")
