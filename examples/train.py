"""LWFTrainer by itself: learning examples, texts to unlearn, one training.

    python examples/train.py --model smollm2-135m --output_dir runs/train

The texts to unlearn are written by hand here. `letgo elicit` lets the base model write them, and
`Dataset.from_parquet("runs/demo/self_knowledge.parquet")` reads the result.
"""

import argparse

from datasets import Dataset

from letgo import LWFConfig, LWFTrainer
from letgo.data.base9 import base9
from letgo.models.bundled import resolve

PAIRS = [(a, b) for a in range(9, 17) for b in range(9, 17)]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--model", default="smollm2-135m", help="a model folder or hub id")
parser.add_argument("--output_dir", default="runs/train")
options = parser.parse_args()

# The learning task: addition in base 9.
learn = [
    {"prompt": f"In base 9, what is {base9(a)} + {base9(b)}?", "completion": f" {base9(a + b)}"}
    for a, b in PAIRS
]
# Texts that may be in the way: sums in base 10. With a column `confidence`, only the most confident
# `forget_fraction` of them would be unlearned.
forget = [{"prompt": f"What is {a} + {b}?", "completion": f" {a + b}"} for a, b in PAIRS[::4]]

trainer = LWFTrainer(
    model=resolve(options.model),
    args=LWFConfig(
        output_dir=options.output_dir,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=5e-5,
        unlearning_interval=4,  # one unlearning step after every four learning steps
        logging_steps=5,
        report_to="none",
    ),
    train_dataset=Dataset.from_list(learn),
    forget_dataset=Dataset.from_list(forget),
)
trainer.train()

# `loss` is that of the learning steps; `unlearn/nll` is the mean NLL of the unlearned texts, which
# should rise.
for line in trainer.state.log_history[:-1]:  # the last line is a summary of the training
    print({name: line[name] for name in ("step", "loss", "unlearn/nll") if name in line})
