"""Runs whose answers are judged by named rules, from the flag to the report."""

import json

import pyarrow.parquet as pq
import pytest
import sacrebleu
from helpers.commands import flags, letgo
from helpers.files import write_lines

from letgo.evaluation.rules import RULES

WORDS = ["un", "homme", "deux", "femmes", "marchent", "dans", "la", "rue", "avec", "un", "enfant"]


def translations(file, start, count):
    rows = [
        {
            "prompt": f"Translate into French: number {n} of the sentences.",
            "completion": " ".join(WORDS[n % 5 : n % 5 + 4]),
        }
        for n in range(start, start + count)
    ]
    return write_lines(file, rows)


@pytest.fixture(scope="module")
def translated(tiny, data, tmp_path_factory):
    """A run that learns to translate and forgets translations and letters."""
    folder = tmp_path_factory.mktemp("translated")
    out = folder / "out"
    status, text, error = letgo(
        "run",
        *flags(
            tiny,
            data,
            out,
            learn=translations(folder / "learn.jsonl", 0, 24),
            learn_test=translations(folder / "test.jsonl", 100, 8),
            learn_validation=translations(folder / "validation.jsonl", 200, 8),
            forget=[data / "letters" / "train.jsonl", translations(folder / "old.jsonl", 300, 12)],
            answer=["learn=chrf", "forget:old=bleu"],
        ),
    )
    assert status == 0, error
    return out, text, error


def test_a_graded_rule_goes_from_the_answers_to_the_verdict(translated):
    out, text, log = translated
    assert "learn: an answer is worth sacrebleu's chrF (rule chrf)" in log
    metrics = json.loads((out / "metrics.json").read_text())
    answers = pq.read_table(out / "answers.parquet").to_pylist()
    rows = [a for a in answers if (a["model"], a["set"]) == ("lwf", "learn")]
    expected = [
        sacrebleu.sentence_chrf(row["generated"], [row["reference"]]).score / 100 for row in rows
    ]
    assert [row["score"] for row in rows] == pytest.approx(expected)
    assert all(row["correct"] is None for row in rows)
    learned = metrics["outcomes"]["learned"]
    assert learned["figure"] == "score"
    assert learned["lwf"]["value"] == pytest.approx(sum(expected) / 8)
    assert metrics["models"]["lwf"]["learn"]["score"] == learned["lwf"]["value"]
    assert set(metrics["validation_outcomes"]["learned"]["lwf_minus_sft"]) == {
        "difference",
        "ci95",
        "p_value",
    }
    assert metrics["verdict_parts"]["learned"] in ("better", "not worse", "worse", "open")
    assert "of 100 points" in metrics["sentence"]
    assert metrics["headroom"]["errors"] == 8
    assert "score of the answers, 0 to 100" in text
    assert "learn by chrf, forget:letters by exact, forget:old by bleu" in text


def test_sets_with_other_rules_are_judged_by_theirs(translated):
    out, *_ = translated
    metrics = json.loads((out / "metrics.json").read_text())
    more = metrics["outcomes"]["let_go"]["more"]
    assert more["accuracy"]["lwf"]["n"] + more["score"]["lwf"]["n"] == sum(
        metrics["models"]["lwf"][name]["n"] for name in ("forget:letters", "forget:old")
    )
    assert "accuracy" in metrics["models"]["lwf"]["forget:letters"]
    assert metrics["rules"]["forget:old"] == "bleu"


def test_translations_are_also_scored_as_a_corpus(translated):
    out, text, _ = translated
    corpus = json.loads((out / "metrics.json").read_text())["corpus"]
    answers = pq.read_table(out / "answers.parquet").to_pylist()
    rows = [a for a in answers if (a["model"], a["set"]) == ("sft", "learn")]
    texts = [row["generated"] for row in rows], [[row["reference"] for row in rows]]
    found = corpus["learn"]["sft"]
    assert found["chrf"]["value"] == pytest.approx(sacrebleu.corpus_chrf(*texts).score)
    assert found["bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(*texts).score)
    assert set(corpus) == {"learn", "validation", "forget:old", "validation:forget:old"}
    assert "SFT, BLEU of the corpus" in text


def test_the_page_shows_scores(translated):
    page = (translated[0] / "report.html").read_text()
    assert "score of the answers, 0 to 100" in page
    assert "Translations as a corpus" in page
    assert "Answers are judged: learn by chrf" in page


def test_a_finished_run_keeps_its_rules_and_another_rule_is_another_result(translated):
    out, *_ = translated
    status, _, error = letgo("evaluate", "--output_dir", out)
    assert status == 0, error
    status, _, error = letgo("evaluate", "--output_dir", out, "--answer", "learn=bleu")
    assert status == 2
    assert "--overwrite" in error


def test_the_nearest_of_several_right_answers_counts(tiny, data, tmp_path):
    rows = [{"prompt": f"say {n} ?", "answers": {"text": [f"not {n}", "x"]}} for n in range(6)]
    test = write_lines(tmp_path / "test.jsonl", rows)
    words = flags(tiny, data, tmp_path / "out", learn_test=test, answer="learn=f1")
    status, _, error = letgo("run", *words)
    assert status == 0, error
    answers = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    rows = [a for a in answers if (a["model"], a["set"]) == ("sft", "learn")]
    assert [row["reference"] for row in rows] == [f"not {n}" for n in range(6)]
    for row in rows:
        expected = [
            RULES["f1"].metric("?", [right], row["generated"]) for right in ("x", row["reference"])
        ]
        assert row["score"] == max(expected)
        assert row["correct"] == (
            row["generated"].strip(" .,!?").lower() in ("x", row["reference"])
        )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("learn=letter", "it can read none of the 11 right answers of learn (first: "),
        ("forget:talk=exact", "no evaluated prompt of forget:talk has a right answer"),
        ("regex:(", "--answer regex:(: not a regular expression"),
        ("rouge", "--answer: 'rouge' is no rule"),
    ],
)
def test_a_rule_that_cannot_judge_is_refused_before_any_work(tiny, data, tmp_path, answer, message):
    status, _, error = letgo("run", *flags(tiny, data, tmp_path / "out", answer=answer))
    assert status == 2
    assert message in error
    assert error.splitlines()[-1].startswith("letgo: --answer")
    assert not (tmp_path / "out").exists()


def test_a_function_is_code_that_only_a_flag_runs(tiny, data, tmp_path):
    file, out = tmp_path / "own.py", tmp_path / "out"
    mark = tmp_path / "executed"
    file.write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "def near(prompt, references, answer):\n"
        "    return 1 / (1 + abs(len(answer) - len(references[0])))\n"
    )
    words = flags(tiny, data, out, answer=f"learn={file}:near")
    status, _, error = letgo("run", *words)
    assert status == 0, error
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 < metrics["outcomes"]["learned"]["lwf"]["value"] <= 1
    mark.unlink()
    for command in ("evaluate", "report"):
        status, _, error = letgo(command, "--output_dir", out)
        assert status == 2
        assert "config.yaml: answer would run the code of" in error
    assert not mark.exists()
    status, _, error = letgo("evaluate", "--output_dir", out, "--answer", f"learn={file}:near")
    assert status == 0, error


def test_doctor_finds_a_rule_that_cannot_judge(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out", answer="learn=letter")
    status, text, _ = letgo("doctor", *words)
    assert status == 1
    assert "data: --answer letter: it can read none of the 11 right answers of learn" in text


def test_mistakes_are_those_of_the_rule(tiny, data, tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def all_right(prompt, references, answer):\n    return 1\n")
    words = flags(tiny, data, tmp_path / "out", forget="learn:mistakes", optimum="gradient")
    assert letgo("elicit", *words)[0] == 0
    status, _, error = letgo("elicit", *words, "--answer", f"learn={file}:all_right", "--overwrite")
    assert status == 2
    assert "the model answers all 24 learning prompts right" in error
