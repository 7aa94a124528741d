"""A run folder read with pandas: texts, scores, selection and answers.

    python examples/read_run.py runs/demo

docs/run-folder.md explains the files and their columns.
"""

import sys
from pathlib import Path

import pandas as pd

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")

# One row for each text that the base model wrote; `id` joins the three files.
texts = (
    pd.read_parquet(folder / "self_knowledge.parquet")
    .merge(pd.read_parquet(folder / "scores.parquet"), on=["id", "forget_set"])
    .merge(pd.read_parquet(folder / "selection.parquet"), on="id")
)
# One row for each model, held-out set and prompt; `correct` is empty where nothing can be judged.
answers = pd.read_parquet(folder / "answers.parquet")

print(f"Scores of the forgetting sets ({texts['score'][0]})\n")
columns = ["confidence", "loss_base", "tokens", "selected"]
print(texts.groupby("forget_set")[columns].mean().round(3).to_string(), end="\n\n")

print("The texts that are unlearned first\n")
columns = ["forget_set", "confidence", "prompt", "completion"]
print(texts.nlargest(5, "confidence")[columns].to_string(index=False, max_colwidth=40), end="\n\n")

judged = answers.dropna(subset="correct").astype({"correct": float})
models = ["base", "sft", "lwf"]
print("Accuracy\n")
print(judged.pivot_table("correct", "set", "model")[models].round(3).to_string(), end="\n\n")

print("Test prompts that LWF answers right and SFT wrong\n")
test = judged[judged["set"] == "learn"].pivot(index="prompt", columns="model", values="correct")
print("\n".join(test.index[(test["lwf"] == 1) & (test["sft"] == 0)]))
