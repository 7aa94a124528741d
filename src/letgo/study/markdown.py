"""`results.md`: the figures of a study, to be read."""

from typing import Any

from letgo.data.splits import NEUTRAL


def page(results: dict[str, Any]) -> str:
    """Claims, effects, what was forgotten and what broke, as Markdown."""
    cells = results["cells"]
    count = [cell["status"] for cell in cells.values()].count
    lines = [
        "# Results",
        "",
        f"{count('done')} of {len(cells)} runs are done, "
        f"{count('failed')} failed. Differences are paired, intervals (95 %) are for other "
        f"seeds and other examples; of a single seed they are for that seed alone. P-values "
        f"are corrected (Holm): of a claim over its tasks, of methods over all comparisons "
        f"of the same settings.",
        "",
    ]
    for name, claim in results["claims"].items():
        lines += [
            f"## {name}",
            "",
            f"{claim['method']} against {claim['baseline']}, forgetting "
            f"{claim['setting']}{_whose(claim)}: mean relative gain {_mean(claim)}.",
            "",
        ]
        lines += _table(
            ["task", "difference", "relative", "p (Holm)", "seeds", "n", "seeds for 2 points"],
            [
                [
                    task,
                    _points(f),
                    _percent(f["relative"], f["relative_ci95"]),
                    f"{f['p_holm']:.3g}",
                    f["seeds"],
                    f["n"],
                    f["seeds_needed"] or "-",
                ]
                for task, f in claim["tasks"].items()
            ],
        )
    lines += ["## All methods against plain fine-tuning", ""]
    lines += _table(
        [
            "task",
            "forgetting set",
            "method",
            "accuracy",
            "p (Holm)",
            "NLL of right answers",
            "seeds",
        ],
        [
            [
                row["task"],
                row["forget"],
                row["method"],
                _points(row["accuracy"]),
                f"{row['accuracy']['p_holm']:.3g}",
                _nats(row["reference_nll"]),
                row["accuracy"]["seeds"],
            ]
            for row in results["effects"]
        ],
    )
    lines += [
        "## What was forgotten",
        "",
        "Accuracy on the forgetting sets and perplexity of "
        "neutral text, base model > SFT > method; and how many runs returned the method's "
        "model, by their validation sets.",
        "",
    ]
    lines += _table(
        ["task", "forgetting set", "method", "accuracy", "perplexity", "returned"],
        [
            [
                row["task"],
                row["forget"],
                row["method"],
                _path(row["forgotten"]["accuracy"], ".3f"),
                _path(row["forgotten"]["perplexity"], ".2f"),
                f"{row['returned_lwf']} of {row['accuracy']['seeds']}",
            ]
            for row in results["effects"]
        ],
    )
    lines += [
        "## Why",
        "",
        "Share of the texts that would help to first order, the cosine of "
        "those with the learning gradient, how far the first unlearning step would lower the "
        "learning loss by that, and what it did to the next batch's; then what all of them "
        "did to the learning loss. Nats per token, on the batches of plain fine-tuning.",
        "",
    ]
    lines += _table(
        ["task", "forgetting set", "method", "help", "cosine", "promised", "first step", "all"],
        [
            [row["task"], row["forget"], row["method"], *_why(row["mechanism"])]
            for row in results["effects"]
        ],
    )
    lines += [
        "## Every run",
        "",
        "Accuracy of base, SFT and the method; in the rows of forgetting "
        "sets, what is left of what the model knew.",
        "",
    ]
    lines += _table(
        ["run", "set", "base", "SFT", "method"],
        [
            [name, which, *(_share(models.get(m)) for m in ("base", "sft", "lwf"))]
            for name, cell in cells.items()
            for which, models in cell.get("sets", {}).items()
            if which != NEUTRAL
        ],
    )
    lines += ["## Made with", ""]
    lines += _table(
        ["device", "versions", "runs"],
        [
            [
                kind["device"] or "-",
                ", ".join(map(" ".join, kind["versions"].items())) or "-",
                kind["runs"],
            ]
            for kind in results["made_with"]
        ],
    )
    broken = {name: cell["error"] for name, cell in cells.items() if cell["status"] == "failed"}
    if broken:
        lines += ["## Failed", ""] + [f"- {name}: {error}" for name, error in broken.items()]
    return "\n".join(lines).rstrip() + "\n"


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, row)) + " |" for row in cells] + [""]


def _points(figures: dict[str, Any]) -> str:
    return _spread(figures, 1, 100)


def _nats(figures: dict[str, Any]) -> str:
    return _spread(figures, 3)


def _spread(figures: dict[str, Any], digits: int, unit: float = 1) -> str:
    """A difference with its interval, if it has one."""
    told = f"{unit * figures['difference']:+.{digits}f}"
    low, high = figures["ci95"]
    if low is None:
        return told
    return f"{told} [{unit * low:+.{digits}f}, {unit * high:+.{digits}f}]"


def _percent(value: float | None, ends: list[float] | None) -> str:
    if value is None or ends is None:
        return "-"
    return f"{100 * value:+.1f} % [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"


def _mean(claim: dict[str, Any]) -> str:
    return _percent(claim["mean_relative"], claim["mean_ci95"])


def _why(figures: dict[str, Any]) -> list[str]:
    told = [
        f"{value:{form}}" if value is not None else "-"
        for value, form in (
            (figures["helpful"], ".0%"),
            (figures["cosine"], ".3f"),
            (figures["promise"], ".4f"),
        )
    ]
    changes = (figures["first_step"], figures["learning_loss"])
    return told + [_spread(change, 4) if change else "-" for change in changes]


def _whose(claim: dict[str, Any]) -> str:
    return " (the models that the runs returned)" if claim["returned"] else ""


def _path(by_model: dict[str, float], form: str) -> str:
    return " > ".join(format(by_model[m], form) for m in ("base", "sft", "lwf") if m in by_model)


def _share(figures: dict[str, Any] | None) -> str:
    return f"{figures['accuracy']:.3f}" if figures else "-"
