"""An unlearning loss of your own, used by LWFTrainer.

    python examples/own_loss.py --model smollm2-135m --output_dir runs/own_loss

In a run from the command line, register the loss before `letgo.cli.main()`, as own_score.py does
with a score, and choose it by `--unlearning_loss hinge`.
"""

import argparse

import torch
from datasets import Dataset

from letgo import LWFConfig, LWFTrainer
from letgo.models.bundled import resolve
from letgo.unlearning.losses import LOSSES, Loss, TextBatch


def hinge(texts: TextBatch, beta: float) -> torch.Tensor:
    """Ascent on each text until its mean NLL is `beta` nats per token, and not further.

    `max(0, beta - NLL)`, the mean over texts. A loss returns the share of one micro-batch, so that
    the shares of all micro-batches of an optimizer step add up to the loss of the step: hence the
    sum over the micro-batch, divided by the number of texts in the whole step.
    """
    nll = -texts.log_probs.sum(1) / texts.lengths  # (texts,)
    return torch.relu(beta - nll).sum() / texts.examples


LOSSES["hinge"] = Loss(hinge, "ascent until an NLL of beta nats per token", beta=3.0)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2-135m", help="a model folder or hub id")
    parser.add_argument("--output_dir", default="runs/own_loss")
    options = parser.parse_args()
    learn = [{"prompt": f"{n} dozen?", "completion": f" {12 * n}"} for n in range(1, 33)]
    forget = [{"prompt": f"{n} tens?", "completion": f" {10 * n}"} for n in range(1, 9)]
    trainer = LWFTrainer(
        model=resolve(options.model),
        args=LWFConfig(
            output_dir=options.output_dir,
            unlearning_loss="hinge",
            unlearning_interval=2,
            num_train_epochs=1,
            logging_steps=4,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(learn),
        forget_dataset=Dataset.from_list(forget),
    )
    trainer.train()
    for line in trainer.state.log_history[:-1]:  # the last line is a summary of the training
        print({name: line[name] for name in ("step", "loss", "unlearn/loss") if name in line})
