"""What the model card says of Learning With Forgetting."""

from collections.abc import Sequence

from letgo.unlearning.config import LWFConfig

CITATION = """\
@inproceedings{jiang2025graceful,
    title     = {{Graceful Forgetting in Generative Language Models}},
    author    = {Jiang, Chunyang and others},
    year      = 2025,
    booktitle = {Proceedings of EMNLP 2025},
    eprint    = {2505.19715},
    archivePrefix = {arXiv}
}"""


def section(args: LWFConfig, texts: Sequence[str], steps: int, acted: dict[str, int]) -> str:
    """Markdown on what was forgotten, and how.

    Args:
        args: of the training.
        texts: lines about the texts (`Chosen.describe`).
        steps: unlearning steps of the run.
        acted: how often each guard has.
    """
    unit = "update" if args.unlearning_state == "separate" else "gradient"
    dose = (
        f"strength {args.unlearning_strength:g} of a learning {unit}"
        if args.unlearning_rate is None
        else f"learning rate {args.unlearning_rate:g}"
    )
    lines = [
        *texts,
        f"share of the texts that may be unlearned: {args.forget_fraction:g}",
        f"{steps} unlearning steps, one for every N_u = {args.unlearning_interval} learning steps, "
        f"schedule {args.unlearning_schedule}",
        f"loss {args.unlearning_loss}, {dose}, {args.unlearning_state} optimizer state",
        f"guards: ceiling {args.unlearning_ceiling:g} nats per token, gradient norm at most "
        f"{args.unlearning_max_grad_norm:g}, pause at {args.unlearning_max_rise:g} nats above the "
        f"lowest learning loss; " + ", ".join(f"{name} {count}" for name, count in acted.items()),
        f"seeds: training {args.seed}, data {args.data_seed or args.seed}",
    ]
    listed = "\n".join(f"- {line}" for line in lines)
    return (
        f"\n## What was forgotten\n\nLearning With Forgetting (arXiv 2505.19715), which is not "
        f"Learning without Forgetting: the base model's own texts were unlearned while it was "
        f"fine-tuned.\n\n{listed}\n"
    )
