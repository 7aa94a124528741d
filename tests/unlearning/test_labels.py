"""Which tokens of a text are unlearned, against a search token by token from the full logits."""

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, config, same, train, unlearner, weights
from oracles import losses as oracle

from letgo import LWFTrainer
from letgo.errors import InputError
from letgo.unlearning.losses import LOSSES
from letgo.unlearning.schedule import Plan
from letgo.unlearning.stream import MixedBatches

RIGHT = [
    {**r, "right_input_ids": [*r["input_ids"][:2], 9, 8], "right_labels": [-100, -100, 9, 8]}
    for r in FORGET
]


def logits_of(model, row):
    """(tokens, vocabulary), of one text alone."""
    return model(torch.tensor([row["input_ids"]])).logits[0]


def conflicting(model, base, row):
    """The row with only those labels that the model finds less likely than the base model."""
    now, before = (logits_of(m, row).log_softmax(-1) for m in (model, base))
    labels = [-100] * len(row["labels"])
    for t in range(1, len(labels)):
        label = row["labels"][t]
        if label != -100 and now[t - 1, label] < before[t - 1, label]:
            labels[t] = label
    return {**row, "labels": labels}


@pytest.mark.parametrize("name", LOSSES)
def test_only_tokens_in_conflict_are_unlearned(tmp_path, name):
    """With every loss, on a padded batch, its gradient included."""
    pairs = LOSSES[name].pairs
    changes = {"unlearning_loss": name, "forget_tokens": "conflict"}
    trainer = unlearner(tmp_path, RIGHT if pairs else FORGET, **changes)
    model, base = trainer.model, make_model()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    trainer.get_train_dataloader()
    trainer.plan, trainer.texts_per_step = Plan([True]), 4
    model.train()
    rows = trainer.forget_dataset.to_list()[:4]
    others = LEARN[:4] if LOSSES[name].mixes_learning else []
    batch = MixedBatches(None, trainer.data_collator)([*rows, *others])
    learning, labels = batch["learning"].tolist(), batch["labels"].clone()
    reference = batch["reference"].tolist()
    for i, row in enumerate(rows):
        kept = conflicting(model, base, row)["labels"]
        assert kept != row["labels"]
        labels[i] = -100
        labels[i, : len(kept)] = torch.tensor(kept)
        before = logits_of(base, row).log_softmax(-1).detach()
        reference[i] = sum(float(before[t - 1, k]) for t, k in enumerate(kept) if k != -100)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    count = (batch["labels"][:, 1:] != -100).sum()
    ours = (labels[:, 1:] != -100).sum()
    expected = oracle.loss(name, logits, labels, reference, learning, LOSSES[name].beta)
    if name in ("ga", "bounded_ga", "kl_uniform", "wga", "unlikelihood", "replay"):
        expected = expected * ours / count  # a mean over all labels of the texts
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[n], rtol=1e-3, atol=1e-5, msg=n)


def test_the_base_model_itself_has_no_token_in_conflict(tmp_path):
    """The first step, before anything is learned, changes nothing."""
    changes = {"unlearning_schedule": "early", "unlearning_interval": 1, "max_steps": 1}
    trainer = unlearner(tmp_path, forget_tokens="conflict", **changes)
    trainer.get_train_dataloader()
    trainer.plan, trainer.texts_per_step = Plan([True]), 4
    rows = trainer.forget_dataset.to_list()[:4]
    for row in rows:
        row["base_log_probs"] = [v - 1e-3 for v in row["base_log_probs"]]  # rounding of a batch
    batch = MixedBatches(None, trainer.data_collator)(rows)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(9))
    loss.backward()
    assert float(loss) == 0
    assert all(not p.grad.any() for p in trainer.model.parameters() if p.grad is not None)


ELICITED = [
    {"prompt_ids": r["input_ids"][:2], "completion_ids": r["input_ids"][2:], "mean_logprob": -1.5}
    for r in FORGET
]


def test_spans_are_the_only_labels_and_other_texts_keep_all(tmp_path):
    spans = [None] + [[k % 2 == 0 for k in range(len(r["completion_ids"]))] for r in ELICITED[1:]]
    spans[3] = [False] * len(spans[3])
    texts = [{**r, "span": span} for r, span in zip(ELICITED, spans, strict=True)]
    trainer = unlearner(tmp_path, texts, unlearning_loss="npo")
    rows = trainer.forget_dataset.to_list()
    assert len(rows) == len(FORGET) - 1  # without the one that does not show the habit
    assert rows[0]["labels"] == FORGET[0]["labels"]
    assert rows[0]["reference"] != pytest.approx(-1.5 * len(ELICITED[0]["completion_ids"]))
    for row, text in zip(rows[1:], [r for r in texts[1:] if any(r["span"])], strict=True):
        inside = [
            i if m else -100 for i, m in zip(text["completion_ids"], text["span"], strict=True)
        ]
        assert row["labels"] == [-100, -100, *inside]
        logs = logits_of(make_model(), row).log_softmax(-1)
        expected = sum(float(logs[t - 1, k]) for t, k in enumerate(row["labels"]) if k != -100)
        assert row["reference"] == pytest.approx(expected, rel=1e-4)
    whole = unlearner(tmp_path, texts, forget_tokens="all").forget_dataset.to_list()
    assert [r["labels"] for r in whole] == [r["labels"] for r in FORGET[:3] + FORGET[4:]]


def test_a_predicate_marks_the_tokens(tmp_path):
    pairs = [{"prompt": f"what is {n}", "completion": " one and two"} for n in range(4)]
    pairs.append({"prompt": "what?", "completion": " c d"})
    tokenizer = make_tokenizer()
    trainer = LWFTrainer(
        model=make_model(),
        args=config(tmp_path),
        train_dataset=Dataset.from_list(LEARN),
        forget_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        habit=lambda tokens, text: [(text.find("two"), text.find("two") + 3)] * ("two" in text),
    )
    rows = trainer.forget_dataset.to_list()
    assert len(rows) == 4
    for row in rows:
        marked = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(marked).strip() == "two"


def test_pairs_are_made_from_every_form(tmp_path):
    elicited = [{**r, "right_ids": [9, 8]} for r in ELICITED]
    elicited[2]["right_ids"] = None
    rows = unlearner(tmp_path, elicited, unlearning_loss="pair").forget_dataset.to_list()
    other = unlearner(tmp_path, RIGHT, unlearning_loss="pair").forget_dataset.to_list()
    names = ("input_ids", "labels", "right_input_ids", "right_labels", "right_reference")
    assert [{n: r[n] for n in names} for r in rows] == [
        {n: r[n] for n in names} for r in other[:2] + other[3:]
    ]
    texts = [{"prompt": f"what is {n}", "completion": " one", "right": " two"} for n in range(4)]
    row = unlearner(tmp_path, texts, unlearning_loss="pair").forget_dataset[0]
    decode = make_tokenizer().decode
    assert decode([i for i in row["right_labels"] if i != -100]) == " two<|end|>"
    assert decode([i for i in row["labels"] if i != -100]) == " one<|end|>"


def test_a_pair_needs_right_answers(tmp_path):
    with pytest.raises(InputError, match="--unlearning_loss pair needs the right answers"):
        unlearner(tmp_path, unlearning_loss="pair")


def test_marked_tokens_are_needed_where_they_are_asked_for(tmp_path):
    with pytest.raises(InputError, match="--forget_tokens span: no token of the texts is marked"):
        unlearner(tmp_path, forget_tokens="span")
    none = [{**r, "span": [False] * len(r["completion_ids"])} for r in ELICITED]
    with pytest.raises(InputError, match="none of the texts shows the habit"):
        unlearner(tmp_path, none)
    with pytest.raises(InputError, match="--forget_tokens must be one of all, conflict, span, not"):
        config(tmp_path, forget_tokens="some")


@pytest.mark.parametrize("changes", [{"unlearning_loss": "pair"}, {"forget_tokens": "conflict"}])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, changes):
    settings = {"save_strategy": "steps", "save_steps": 5, "rescore_interval": 2, **changes}
    whole = train(LWFTrainer, config(tmp_path / "a", **settings), RIGHT)
    again = config(tmp_path / "a", **settings)
    resumed = train(LWFTrainer, again, RIGHT, resume=str(tmp_path / "a" / "checkpoint-5"))
    assert same(weights(whole), weights(resumed))
