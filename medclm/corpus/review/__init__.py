"""Review by readers: a sample of a corpus is judged by people on a loopback page, and their verdicts become numbers.

sample.py      which records are shown, and at which stage
verdicts.py    the file of verdicts, and what it excludes from the next build
session.py     one reader's way through the sample
view.py        what is shown of one sample
page.py        the pages as HTML; assets.py: their style and script
server.py      the loopback server
statistics.py  agreement of readers, rates of wrong facts with intervals, acceptance
summary.py     corpus + verdicts -> text, and the manifest's `review` entry
"""
