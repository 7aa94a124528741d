"""Which model a run returns, and why, in a sentence."""

from dataclasses import dataclass

from letgo.evaluation import statistics as stats
from letgo.evaluation.outcomes import KEPT, LEARNED, LET_GO
from letgo.run.folder import Row

BETTER, NOT_WORSE, WORSE, OPEN = "better", "not worse", "worse", "open"
MORE, NOT_MORE, NOT_LESS, LESS = "more", "not more", "not less", "less"
UNMEASURED = "not measured"
# What is to go, by the deciding figure.
WHAT_GOES = {
    "old_answers": "old answers",
    "loops": "looping answers",
    "pattern": "answers with the pattern",
}


@dataclass(frozen=True)
class Verdict:
    """The comparison with plain fine-tuning (SFT) on the validation prompts.

    Attributes:
        learned: `BETTER`, `NOT_WORSE`, `WORSE`, or `OPEN` if neither is shown.
        let_go: `MORE`, `NOT_MORE` or `UNMEASURED`.
        kept: `MORE`, `NOT_LESS`, `LESS` (unless the contrary is shown) or `UNMEASURED`.
    """

    learned: str
    let_go: str
    kept: str

    @property
    def model(self) -> str:
        """The model to return: "lwf" or "sft".

        LWF is returned if it learned better, or if it learned not worse, let go more and kept not
        less. A run without forgetting prompts must keep more instead.
        """
        if self.learned == BETTER:
            return "lwf"
        gain = self.kept if self.let_go == UNMEASURED else self.let_go
        return "lwf" if self.learned == NOT_WORSE and gain == MORE and self.kept != LESS else "sft"


def judge(outcomes: Row, margin: float) -> Verdict:
    """The verdict on the outcomes of the validation prompts.

    Args:
        outcomes: of `outcomes.outcomes` with `validation`; `learned` must be there.
        margin: percentage points by which learning may be worse; what is kept may differ by as many
            hundredths of a nat.
    """
    learned, let_go, kept = (outcomes.get(name, {}) for name in (LEARNED, LET_GO, KEPT))
    return Verdict(
        _learned(learned, margin / 100),
        _let_go(let_go["lwf_minus_sft"]) if "lwf_minus_sft" in let_go else UNMEASURED,
        _kept(kept, margin / 100) if "lwf_minus_sft" in kept else UNMEASURED,
    )


def _learned(learned: Row, margin: float) -> str:
    difference = learned["lwf_minus_sft"]
    nll = learned["more"]["reference_nll"]["lwf_minus_sft"]
    if stats.verdict({**difference, "reference_nll": nll}) == "lwf":
        return BETTER
    low, high = difference["ci95"]
    if low > -margin:
        return NOT_WORSE
    return WORSE if high < 0 else OPEN


def _let_go(difference: Row) -> str:
    fewer = difference["difference"] < 0 and difference["p_value"] < stats.SIGNIFICANT
    return MORE if fewer else NOT_MORE


def _kept(kept: Row, margin: float) -> str:
    high = kept["lwf_minus_sft"]["ci95"][1]
    # Values that are not finite are left out: a ruined model has fewer.
    if high is None or high > margin or kept["lwf"]["n"] < kept["sft"]["n"]:
        return LESS
    return MORE if high < 0 else NOT_LESS


def sentence(verdict: Verdict, outcomes: Row) -> str:
    """The verdict in words, with the validation prompts' figures of LWF and SFT."""
    unit = "of 100 points" if outcomes[LEARNED].get("figure") == "score" else "% right"
    parts = [_part("learned", verdict.learned, outcomes[LEARNED], 100, unit)]
    if LET_GO in outcomes:
        unit = f"% {WHAT_GOES[outcomes[LET_GO]['figure']]}"
        parts.append(_part("let go", verdict.let_go, outcomes[LET_GO], 100, unit))
    if KEPT in outcomes:
        parts.append(_part("kept", verdict.kept, outcomes[KEPT], 1, "nats from the base model"))
    return "LWF " + ", ".join(parts)


def _part(verb: str, result: str, outcome: Row, factor: int, unit: str) -> str:
    ours, theirs = (factor * outcome[model]["value"] for model in ("lwf", "sft"))
    words = {OPEN: "neither better nor surely not worse"}.get(result, result)
    digits = 1 if factor == 100 else 3
    figures = f"{ours:.{digits}f} {unit}, SFT {theirs:.{digits}f}, n = {outcome['lwf']['n']}"
    return f"{verb} {words} ({figures})"
