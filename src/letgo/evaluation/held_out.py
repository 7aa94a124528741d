"""Held-out forgetting and keep prompts: is the old answer gone, and is the rest as it was?

Nothing is trained, elicited or scored on them.
"""

import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch

from letgo.data.tokens import chunks_by_length, generated_rows, in_chunks_of
from letgo.evaluation.asking import (
    Load,
    answer_row,
    has_reference,
    reference_nll,
    right_answers,
    task_rule,
)
from letgo.evaluation.habits import habit_metrics
from letgo.evaluation.likelihood import Question, likeliest, options_of_records
from letgo.evaluation.own_answers import Prompt, fitting_prompts, own_answers
from letgo.evaluation.rules import Rule, measure
from letgo.evaluation.same_answer import same_answer
from letgo.models.inference import LanguageModel, autocast, labelled_logits
from letgo.progress import log
from letgo.run.folder import Row
from letgo.run.inputs import KEEP_SET, VALIDATION, Run
from letgo.run.stage import in_chunks
from letgo.unlearning.keep import divergence


def base_answers(run: Run, scratch: Path, load: Load) -> list[Row]:
    """The base model's answers to all held-out prompts, rows of `held_out.parquet`.

    Prompts without room for an answer, and answers without text, are left out. Keep sets also have
    the base model's likeliest tokens.
    """
    load, length, table = cache(load), run.settings.max_new_tokens, []
    for name, records in run.held_out.items():
        top_k = run.training.keep_top_k if KEEP_SET in name else 0
        prompts = fitting_prompts(load(), "", name, records, length)
        chunks = chunks_by_length(prompts, run.settings.generation_batch_size)
        rows = in_chunks(
            f"old answers {name.replace(':', ' ')}",
            scratch,
            chunks,
            partial(_own_answers, load, length, top_k),
        )
        texts = sorted((row for row in rows if row["completion"].strip()), key=lambda r: r["id"])
        if len(texts) < len(rows):
            message = "%s: %d of %d answers of the base model are empty and left out"
            log.warning(message, name, len(rows) - len(texts), len(rows))
        table += [{**row, "set": name} for row in texts]
    return table


def held_out_answers(
    run: Run, scratch: Path, label: str, load: Load, old: Sequence[Row]
) -> list[Row]:
    """One model's answers to the held-out prompts, as rows of `answers.parquet`.

    Args:
        run, scratch, label, load: as for `asking.all_answers`.
        old: rows of `base_answers`.
    """
    load, table = cache(load), []
    for name in run.held_out:
        questions, rule = _questions(run, name, label, [row for row in old if row["set"] == name])
        lengths = [len(question["prompt_ids"]) for question in questions]
        chunks = in_chunks_of(questions, lengths, run.settings.generation_batch_size)
        answers = in_chunks(
            f"evaluate {label} {name.replace(':', ' ')}",
            scratch,
            chunks,
            partial(_answers, run, load, label, rule),
        )
        nll = [row["reference_nll"] for row in answers if row["reference_nll"] is not None]
        if count := sum(map(math.isnan, nll)):
            message = "%s: %d of %d right answers have no likelihood; they do not fit the context"
            log.warning(message, name, count, len(nll))
        table += answers
    return table


def _questions(run: Run, name: str, label: str, rows: list[Row]) -> tuple[list[Row], Rule | None]:
    """The rows of a set by length, with `references` and `options`, and the rule of its task.

    A row without a right answer is not judged; a set without any has no rule.
    """
    task = name.removeprefix(f"{VALIDATION}:")
    records = [*run.held_out.get(task, []), *run.held_out.get(f"{VALIDATION}:{task}", [])]
    is_logged = label == "base" and name == (task if task in run.held_out else name)
    rule = task_rule(run, task, is_logged) if any(map(has_reference, records)) else None
    of_set = {record.id: record for record in run.held_out[name]}
    judged = [of_set[row["id"]] for row in rows if has_reference(of_set[row["id"]])]
    if label == "base" and 0 < len(judged) < len(rows):
        message = "%s: %d of %d prompts have no right answer and are not judged"
        log.warning(message, name, len(rows) - len(judged), len(rows))
    options = dict(zip((r.id for r in judged), options_of_records(judged), strict=True))
    questions = [
        {
            **row,
            "prompt": of_set[row["id"]].prompt,  # perhaps a conversation, not its text
            "references": right_answers(of_set[row["id"]]),
            "options": options.get(row["id"]),
        }
        for row in rows
    ]
    return sorted(questions, key=lambda row: (len(row["prompt_ids"]), row["id"])), rule


def _own_answers(load: Load, length: int, top_k: int, chunk: list[Prompt]) -> list[Row]:
    return own_answers(load(), chunk, length, top_k)


def _answers(
    run: Run, load: Load, label: str, rule: Rule | None, questions: list[Row]
) -> list[Row]:
    """Rows of `answers.parquet` for questions of one set."""
    lm, rows = load(), generated_rows(questions)
    old_nll = lm.losses(rows)
    kl = _divergences(lm, rows, questions) if questions[0].get("top_ids") else [None] * len(rows)
    asked = [row for row in questions if row["prompt"]]
    if label == "base":
        answers = {row["id"]: row["completion"] for row in asked}
        new = [row["completion_ids"] for row in asked]
    else:
        most = run.settings.max_new_tokens
        new = lm.generate([row["prompt_ids"] for row in asked], most) if asked else []
        texts = [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in new]
        answers = {row["id"]: text for row, text in zip(asked, texts, strict=True)}
    ids_of = {row["id"]: ids for row, ids in zip(asked, new, strict=True)}
    options = [
        Question(q["prompt"], (*q["references"], "")[0], q["options"] or []) for q in questions
    ]
    right, whole = likeliest(lm, options), run.settings.likelihood_accuracy
    pairs = {r["id"]: (r["prompt"], r["references"][0]) for r in questions if r["references"]}
    nll = reference_nll(lm, pairs)
    table = []
    for i, row in enumerate(questions):
        prompt, references, answer = row["prompt"], row["references"], answers.get(row["id"], "")
        reference = references[0] if references else ""
        read = rule.read(reference or row["completion"], prompt) if rule else None
        metrics = {
            **measure(rule, prompt, references, answer),
            "reference_nll": nll.get(row["id"], math.nan) if reference else None,
            "old_answer": same_answer(read, prompt, answer, row["completion"]) if prompt else None,
            "old_nll": old_nll[i],
            "likeliest": right[i].per_token,
            "likeliest_whole": right[i].whole if whole else None,
            "kl": kl[i],
            **habit_metrics(run, row["set"], lm, ids_of.get(row["id"], [])),
        }
        shown = {"reference": reference.strip(), "generated": answer.strip()}
        table.append(answer_row(label, row["set"], row["id"], metrics, prompt=prompt, **shown))
    return table


@torch.inference_mode()
def _divergences(lm: LanguageModel, rows: list[Row], questions: list[Row]) -> list[float]:
    """KL(base || model) of each text, the mean over its tokens, nats."""
    batch = lm.pad(rows)
    with autocast(lm.bf16):
        logits = labelled_logits(lm.model, batch)
    tops = [[x for row in questions for x in row[n]] for n in ("top_ids", "top_log_probs")]
    kl = divergence(logits, *(torch.tensor(top, device=logits.device) for top in tops))
    counts = (batch.labels[:, 1:] != -100).sum(1).tolist()
    return [float(part.mean()) for part in torch.split(kl, counts)]
