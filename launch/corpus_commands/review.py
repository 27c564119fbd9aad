"""`corpus.py review`: a page on which a reader judges samples of a corpus, and the summary of what readers said."""

import argparse
from pathlib import Path

from launch.corpus_commands.shared import Commands, command
from medclm.corpus.report import NOTICE
from medclm.corpus.review.sample import STRATA, choose
from medclm.corpus.review.server import ReviewServer
from medclm.corpus.review.session import ReviewSession
from medclm.corpus.review.statistics import LIMIT, samples_needed
from medclm.corpus.review.summary import VERDICT_FILE, manifest_entry, summarise_review, write_review
from medclm.corpus.review.verdicts import check_reader, read_verdicts
from medclm.data.shards import Corpus

_EXAMPLES = f"""examples:
  corpus.py review corpora/brats --reader A                   open the printed address in a browser on this machine
  corpus.py review corpora/brats --reader B                   the second reader sees the same samples
  corpus.py review corpora/brats --summary                    agreement, error rates; the result goes into manifest.json
Keys: 1 right, 2 wrong text, 3 wrong box, 4 wrong side, 5 unanswerable; left and right go back and forward, O to the next open
one, B shows and hides boxes, + - 0 and the wheel zoom, N writes a note. A reader who comes back goes on where he stopped.
Accepted: the upper end of the 95 % interval of wrong facts is at most {LIMIT:.0%}, which takes {samples_needed(0)} judged samples
without a fault, {samples_needed(1)} with one, {samples_needed(2)} with two."""


def add(commands: Commands) -> None:
    review = command(commands, "review", "judge samples of a corpus on a local page; rates and agreement", _EXAMPLES, _review)
    review.add_argument("corpus", type=Path, help="corpus folder")
    review.add_argument("--reader", metavar="LABEL", help="who judges: a short label such as A, no name")
    review.add_argument("--n", type=int, default=200, help="samples to judge (default %(default)s)")
    review.add_argument(
        "--stratify", choices=STRATA, default="domain", help="what the sample is spread over (default %(default)s)"
    )
    review.add_argument("--seed", type=int, default=0, help="of the draw; both readers need the same (default %(default)s)")
    review.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 = any free one (default)")
    review.add_argument(
        "--verdicts", type=Path, metavar="FILE", help=f"verdict file (default: {VERDICT_FILE} in the corpus folder)"
    )
    review.add_argument("--summary", action="store_true", help="print the result and write it into the manifest")


def _review(args: argparse.Namespace) -> int:
    corpus = Corpus(args.corpus)
    path = args.verdicts or args.corpus / VERDICT_FILE
    if args.summary:
        return _summarise(args, corpus, path)
    if args.reader is None:
        raise ValueError("--reader: say who judges, e.g. --reader A; or give --summary")
    session = ReviewSession(corpus, choose(corpus, args.n, stratify=args.stratify, seed=args.seed), args.reader, path)
    return _serve(session, args.port)


def _summarise(args: argparse.Namespace, corpus: Corpus, path: Path) -> int:
    if args.reader is not None:
        raise ValueError(f"--reader {check_reader(args.reader)}: --summary is about all readers: leave one of them out")
    verdicts = read_verdicts(path) if args.verdicts or path.exists() else []
    review, text = summarise_review(corpus, verdicts)
    print(text)
    write_review(args.corpus, review)
    print(f"manifest: review {manifest_entry(review)['state']}    {NOTICE}")
    return 0


def _serve(session: ReviewSession, port: int) -> int:
    with ReviewServer(session, port) as server:
        left = len(session.open_numbers())
        print(f"reader {session.reader}: {len(session)} samples, {len(session) - left} judged, {left} open", flush=True)
        print(f"verdicts: {session.path}    {NOTICE}", flush=True)
        print(f"open: {server.url}    (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(
                f"\nreader {session.reader}: {len(session.open_numbers())} samples are open; the same command goes on",
                flush=True,
            )
    return 0
