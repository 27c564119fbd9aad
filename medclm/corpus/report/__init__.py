"""What is in a corpus, for a person: what went in and out, balance, organs, sizes and samples, as text or as one page.

Everything comes from the stored files, piece by piece: `rejects` and `lesions` count, `summary` gathers, `tables` puts
numbers into words, `text` and `page` lay them out, `sheets` chooses and shows samples. Knows nothing of how a corpus is made.
"""

NOTICE = "Research use only, not a medical device."
