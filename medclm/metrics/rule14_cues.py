"""The tables of `rule14` for what stands around a finding: words that deny, doubt or place it, and where their scope ends.

Patterns are written as in rule14_phrases.py. That negation is a cue with a direction and a scope: Chapman et al. 2001 (NegEx);
that uncertainty is a third state with cues of its own: Peng et al. 2018 (NegBio), Irvin et al. 2019 (CheXpert). The phrases
are our own. Tables only; rule14.py, rule14_sides.py and rule14_text.py read them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from medclm.metrics.rule14_phrases import Side


class Effect(Enum):
    """What a cue does to a finding in its reach; of several the first in this order counts."""

    SET_ASIDE = "set aside"
    """History, conditions, what is to be looked for: not a finding of this study."""
    DOUBLE = "double negation"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"
    NOTHING = "nothing"
    """Holds the words of a cue without being one (`no change in`)."""


class Reach(Enum):
    """How far a cue reaches."""

    AFTER = "findings after it, to the end of the clause, lists included"
    AFTER_PHRASE = "findings after it, to the next comma, `and`, `with` or verb"
    BEFORE = "findings before it, to the start of the clause"


class Cue(NamedTuple):
    """Words that change what is said of findings near them."""

    pattern: str
    effect: Effect
    reach: Reach


_SEEN = (
    r"(seen|identified|noted|present|evident|demonstrated|visuali[sz]ed|visible|appreciated|detected|observed|found|apparent)"
)
_EXCLUDE = r"(\w+ly )*(exclude|rule out)"
_CHANGE = r"(changes?|increase|decrease|progression|improvement|difference|worsening|resolution)"

CUES: tuple[Cue, ...] = (
    Cue(
        r"no|not|without|w/o|neither|nor|never|free of|clear of|devoid of|absence of|lack of|negative for|no longer",
        Effect.ABSENT,
        Reach.AFTER,
    ),
    Cue(r"(interval |complete |full )*(resolution|clearing|disappearance|removal) of", Effect.ABSENT, Reach.AFTER_PHRASE),
    Cue(r"resolved|removed|absent", Effect.ABSENT, Reach.AFTER_PHRASE),
    Cue(rf"(no longer|not) (\w+ly )?(been )?{_SEEN}|no longer", Effect.ABSENT, Reach.BEFORE),
    Cue(
        rf"resolved|cleared|disappeared|absent|removed|none( (is|are) {_SEEN})?|(no|negative)(?=\W*$)",
        Effect.ABSENT,
        Reach.BEFORE,
    ),
    Cue(r"excluded|ruled out", Effect.ABSENT, Reach.BEFORE),
    Cue(
        rf"(cannot|can not|can ?t|could not|couldn ?t|unable to|((is|are) )?(difficult|hard|impossible) to|(do|does|did) not) {_EXCLUDE}",
        Effect.DOUBLE,
        Reach.AFTER,
    ),
    Cue(r"not (without|free of|absent|negative for)|exclusion of (\w+ )?is not possible", Effect.DOUBLE, Reach.AFTER),
    Cue(r"(cannot|can not|can ?t|could not|not|never|hardly) (be )?(\w+ly )*(excluded|ruled out)", Effect.DOUBLE, Reach.BEFORE),
    Cue(r"(is|are) (difficult|hard|impossible) to (\w+ly )*(exclude|rule out)|not absent", Effect.DOUBLE, Reach.BEFORE),
    Cue(r"may|might|could|can represent|cannot be distinguished from", Effect.UNCERTAIN, Reach.AFTER),
    Cue(
        r"(suspicious|suspicion|concern\w*|worrisome|worry) (for|of|about)|suggest\w*( of)?|suggestion of|favou?r\w*",
        Effect.UNCERTAIN,
        Reach.AFTER,
    ),
    Cue(
        r"differential\w*( diagnos\w+)?|considerations? (\w+ )?includes?|exclude|rule out|r/o|felt to|thought to|versus|vs",
        Effect.UNCERTAIN,
        Reach.AFTER,
    ),
    Cue(
        r"(likely|probably|possibly|presumably) (represent\w*|reflect\w*|due to|secondary to|related to|from)",
        Effect.UNCERTAIN,
        Reach.AFTER,
    ),
    Cue(
        r"possibl[ey]|probabl[ey]|likely|unlikely|potential(ly)?|questionable|question( of)?|equivocal|perhaps|rather than",
        Effect.UNCERTAIN,
        Reach.AFTER_PHRASE,
    ),
    Cue(r"suspect\w*|presum\w+|borderline|hint of|impression of|\?", Effect.UNCERTAIN, Reach.AFTER_PHRASE),
    Cue(
        r"(is|are|was|were|seems?|remains?) (\w+ )?(possible|likely|probable|suspected|questioned|questionable|unlikely|favou?red|equivocal|considered|raised)(?=\W*$|,| (and|but|in|at|on|given|although)(?!\w))",
        Effect.UNCERTAIN,
        Reach.BEFORE,
    ),
    Cue(r"questioned|suspected|versus|vs", Effect.UNCERTAIN, Reach.BEFORE),
    Cue(
        r"if|unless|recommend\w*|to (document|ensure|confirm|follow)|follow ?up (of|for)|risk (of|for|factors)|screening for",
        Effect.SET_ASIDE,
        Reach.AFTER,
    ),
    Cue(
        r"history of|hx( of)?|h/o|patient with|presents? with|treatment (of|for)|treated for|diagnos\w+ (of|with)",
        Effect.SET_ASIDE,
        Reach.AFTER,
    ),
    Cue(r"(evaluat\w+|assess\w*|look\w*|search\w*) (for|of)|(evaluate|assess)( the)?", Effect.SET_ASIDE, Reach.AFTER_PHRASE),
    Cue(r"may be (\w+ )?(helpful|useful|warranted|obtained|considered|of benefit|indicated)", Effect.SET_ASIDE, Reach.AFTER),
    Cue(
        rf"(no|without) ((significant|interval|appreciable|definite|substantial|further|major|acute|overall) )*{_CHANGE}( (in|of|from|since))?",
        Effect.NOTHING,
        Reach.AFTER,
    ),
    Cue(
        r"not (\w+ly )?(changed|increased|decreased|progressed|improved|resolved|cleared|only|excluded from)",
        Effect.NOTHING,
        Reach.AFTER,
    ),
    Cue(
        r"not (\w+ )?(well|fully|completely|adequately|optimally|entirely|included|imaged)( \w+)?|no (prior|previous|priors|comparison)",
        Effect.NOTHING,
        Reach.AFTER,
    ),
    Cue(
        r"(partial|near|nearly|incomplete|almost|mostly|largely)( complete)? (interval )?(resolution|clearing) of",
        Effect.NOTHING,
        Reach.AFTER,
    ),
    Cue(
        r"(partially|partly|nearly|almost|incompletely|mostly|largely)( completely)? (resolved|cleared|removed)|excluded from",
        Effect.NOTHING,
        Reach.AFTER,
    ),
)

CONTRASTS = r"but|however|although|though|except(ing)?|yet|whereas|while|otherwise|(other|apart|aside) (than|from)"
"""Words that end every scope."""
VERBS_ONE = r"is|was|has|remains|appears|shows|demonstrates|persists"
VERBS_MANY = r"are|were|have|remain|appear|show|demonstrate|persist"
NO_NEWS = rf"(not|also|again|been|now|to be)? ?({_SEEN}|developed|suspected|suggested|excluded|ruled out)"
"""After a verb: the sentence says only that its subject is, or is not, there, so the verb opens no clause of its own."""
RESTARTS = (
    r"(a|an|small|mild|mildly|moderate|moderately|trace|tiny|minimal|stable|unchanged|persistent|chronic|increased|increasing|low|old|healed|"
    r"calcified|residual|now|there)"
)
"""After a comma, `and` or `with`, these begin an affirmed finding, so that a denial ends before them, unless `or` follows. A comma
after `no A or B` ends the list, and thus the denial, too."""
PHRASE_STOPS = rf"and|with|without|by|due|given|because|which|that|{VERBS_ONE}|{VERBS_MANY}"
LINKS = r"represent\w*|reflect\w*|suggest\w*|consistent with|compatible with|likely|probabl[ey]|possibl[ey]|presum\w+|concern\w* for|suspicious for|due to|from|favou?r\w*"
"""Between two findings: the second explains the first and thus lies where the first does."""

# Left and right as words, and as places that only one lung, or each lung, has.
SIDES: tuple[tuple[Side, str], ...] = (
    (Side.LEFT, r"left( sided)?|lt|lll|lul|lingul\w*|left (lung )?middle lobe"),
    (Side.RIGHT, r"right( sided)?|rt|rll|rml|rul|middle lobe"),
    (
        Side.BILATERAL,
        r"bilateral\w*|both|bi ?basilar|bi ?basal|bi ?apical|bases|apices|(in|within|throughout) (the |both )?lungs",
    ),
    (Side.BILATERAL, r"costophrenic (angles|sulci|recesses)"),
)
NOT_SIDES = (
    r"(left|right) to (left|right)( shift)?|"
    r"(left|right) (heart|cardiac|atri\w+|ventric\w+|main ?stem|main bronch\w+|coronary|hemi ?diaphragm\w*)|"
    r"(left|right) (lung|chest|hemi ?thorax) (is |remains |appears )?(clear|normal|unremarkable|well)"
)

# Sections that are read, and sections that say why or how the study was made.
READ_HEADINGS = r"findings?|impressions?|conclusions?|opinion|interpretation|report|final report|addendum"
SKIPPED_HEADINGS = (
    r"(clinical )?(indications?|history|information|data|statement|context)|reason for (the )?(exam\w*|study|visit)|comparisons?( exam\w*| study)?|"
    r"techniques?|exam(ination)?|exam type|procedure|(number of )?views?|recommendations?|notifications?|communication"
)
