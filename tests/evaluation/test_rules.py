"""The rules that judge answers, by hand, by other implementations, and chosen by `--answer`."""

import random
import re
import string
from collections import Counter

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from letgo.errors import InputError
from letgo.evaluation.hooks import load
from letgo.evaluation.overlap import of_corpus
from letgo.evaluation.rules import RULES, assigned, auto, measure, named, rule_inputs
from letgo.evaluation.same_answer import same_answer
from letgo.run.settings import RunConfig

OPTIONS = "Which?\nA. oaks\nB. rocks\nC. (none)\nAnswer:"


def judged(rule, references, answer, prompt="?"):
    references = [references] if isinstance(references, str) else references
    found = measure(named(rule), prompt, references, answer)
    return found["correct"] if found["score"] is None else found["score"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The answer is (B).", "B"),
        ("the correct answer is **B**", "B"),
        ("Answer: B. rocks", "B"),
        ("Rocks are hard.\n\nB", "B"),
        ("Rocks are hard.\nB. rocks", "B"),
        ("So it is \\boxed{B}.", "B"),
        ("The best choice is option C because of that.", "C"),
        ("Not (A), as that is alive, but rocks (B).", "B"),
        ("The answer is A. No, the answer is B.", "B"),
        ("B. oaks", "B"),
        ("A. oaks\n\nThe answer is B.", "B"),
        ("B. rocks\n\nQuestion: Which?\nAnswer: A. oaks. The answer is A.", "B"),
        ("B. rocks\nAnswer: A", "B"),
        ("The answer is not B.", None),
        ("It contains vitamin B.", None),
        ("The answer is H.", None),
        ("The answer is A rock.", None),
        ("Because", None),
    ],
)
def test_a_letter_is_read_at_the_start_or_where_the_answer_names_it(answer, letter):
    for option, reference in {"A": "A. oaks", "B": "B. rocks", "C": "(C) none"}.items():
        assert judged("letter", reference, answer, OPTIONS) is (option == letter)


def test_a_letter_that_is_no_option_of_the_prompt_is_not_read():
    assert not judged("letter", "B", "The answer is (B).", "Which?")
    assert judged("letter", "The answer is (B).", "B", OPTIONS)


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("#### 16", "So he ran 16 miles.", True),
        ("#### 16", "He ran 8 + 8 = 16 miles.\n#### 16", True),
        ("#### 16", "He ran 16 miles.\n#### 17", False),
        ("0.5", "The result is \\frac{1}{2}, so $\\frac{1}{2}$.", True),
        ("\\boxed{\\frac{3}{4}}", "It is 75%.", True),
        ("\\boxed{x^2+2x+1}", "Thus $\\boxed{(x+1)^2}$.", True),
        ("12 cm", "The length is $12\\text{ cm}$.", True),
        ("1,200", "That makes $1200.", True),
        ("16", "I do not know.", False),
        ("no number", "no  number", True),
    ],
)
def test_numbers_and_formulas_are_equal_by_value(reference, answer, right):
    assert judged("math", reference, answer) is right


def test_an_answer_of_many_digits_is_judged_at_once():
    assert not judged("math", "2", "9^{9^{9^{9}}}" * 3 + " is it")


@pytest.mark.parametrize(
    ("references", "answer", "right"),
    [
        ("the Eiffel Tower", "It is Eiffel tower, in Paris.", True),
        ("5", "There are 15.", False),
        (["Paris", "Lutetia"], "It was called Lutetia.", True),
        ("?!", "What?!", True),
        ("Paris", "", False),
    ],
)
def test_contained_words(references, answer, right):
    assert judged("contains", references, answer) is right


def test_a_group_of_a_regular_expression_is_compared():
    rule = "regex:(?i)answer is (?:the )?(\\w+)"
    assert judged(rule, "Paris", "I think the answer is Paris, in France")
    assert judged(rule, "The answer is Paris", "so the answer is the Paris")
    assert not judged(rule, "Paris", "Paris")
    assert same_answer(named(rule).read("x", "?"), "?", "answer is x 1", "the answer is x")


# SQuAD's evaluation script (v1.1), told once more: the mean over questions is the script's.


def squad(text):
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def squad_f1(answer, reference):
    common = sum((Counter(squad(answer)) & Counter(squad(reference))).values())
    if common == 0:
        return 0
    precision, recall = common / len(squad(answer)), common / len(squad(reference))
    return 2 * precision * recall / (precision + recall)


words = st.lists(
    st.sampled_from(["a", "The", "cat,", "sat.", "on", "über", "3,5", "-", "it's"]), max_size=8
)


@given(words, st.lists(words, min_size=1, max_size=3))
def test_exact_match_and_f1_are_squads(answer, references):
    answer, references = " ".join(answer), [" ".join(reference) for reference in references]
    found = measure(RULES["f1"], "?", references, answer)
    assert found["score"] == pytest.approx(max(squad_f1(answer, r) for r in references))
    assert found["correct"] == any(squad(answer) == squad(r) for r in references)


def test_f1_by_hand():
    found = measure(RULES["f1"], "?", ["in Denver, Colorado", "Denver"], "The city of Denver")
    assert found == {"correct": False, "score": pytest.approx(0.5)}  # 1/3 and 1
    assert measure(RULES["f1"], "?", ["Denver"], "the Denver.") == {"correct": True, "score": 1.0}


def test_chrf_and_bleu_are_sacrebleus():
    draw = random.Random(0)
    vocabulary = [
        "un",
        "homme",
        "deux",
        "femmes",
        "marchent",
        "dans",
        "la",
        "rue",
        ",",
        "avec",
        "l'enfant",
        ".",
    ]
    answers = [" ".join(draw.choices(vocabulary, k=draw.randrange(9))) for _ in range(40)]
    right = [[" ".join(draw.choices(vocabulary, k=8)) for _ in range(1 + i % 2)] for i in range(40)]
    for answer, references in zip(answers, right, strict=True):
        chrf = sacrebleu.sentence_chrf(answer, references).score
        bleu = sacrebleu.sentence_bleu(answer, references).score
        assert judged("chrf", references, answer) == pytest.approx(chrf / 100)
        assert judged("bleu", references, answer) == pytest.approx(bleu / 100)
    first = [references[:1] for references in right]
    found, streams = of_corpus(answers, first), [[references[0] for references in first]]
    assert found["chrf"]["value"] == sacrebleu.corpus_chrf(answers, streams).score
    assert found["bleu"]["value"] == sacrebleu.corpus_bleu(answers, streams).score
    assert found["bleu"]["signature"].startswith("nrefs:1|")
    assert of_corpus(answers, right)["bleu"]["value"] >= found["bleu"]["value"]
    assert judged("bleu", "un homme dans la rue", "un homme dans la rue") == 1.0


def test_a_rule_is_automatic_only_without_doubt():
    assert auto([("x = 3\n#### 3", "?")]).name == "number"
    assert auto([("B. rocks", OPTIONS), ("A. oaks", OPTIONS)]).name == "letter"
    assert auto([("so \\boxed{\\frac{1}{2}}", "?")] * 2 + [("no idea", "?")]).name == "math"
    assert auto([("35", "?"), ("7", "?")]).name == "exact"


def config(*answer):
    forget = ["data/dental/train.jsonl", "a=b.jsonl", "learn:mistakes"]
    return RunConfig(forget=forget, keep=["facts.jsonl"], answer=list(answer))


def test_sets_have_their_own_rules():
    every = {"learn", "forget:dental", "forget:a=b", "keep:facts"}
    assert assigned(config()) == dict.fromkeys(every, "auto")
    rules = assigned(config("learn=math", "exact", "forget:a=b=regex:x=(.)", "keep:facts=auto"))
    assert rules == {
        "learn": "math",
        "forget:dental": "exact",
        "forget:a=b": "regex:x=(.)",
        "keep:facts": "auto",
    }
    assert rule_inputs(config()) == {}
    assert rule_inputs(config("learn=math")) == {"answer learn": "math"}
    assert rule_inputs(config("math"), "learn") == {"answer learn": "math"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (["math", "exact"], "math and exact are both for all sets"),
        (["learn=math", "learn=exact"], "math and exact are both for learn"),
        (["forget:psychol=letter"], "no such set to judge; it has learn, forget:dental"),
        (["validation=letter"], "no such set"),
    ],
)
def test_rules_that_no_set_can_have(answer, message):
    with pytest.raises(InputError, match=re.escape(message)):
        assigned(config(*answer))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rouge", "'rouge' is no rule; give auto, exact, letter, number, math, contains, f1, chrf"),
        ("regex:answer", "the regular expression has no group"),
        ("regex:(", "not a regular expression"),
        ("missing.py:metric", "there is no file missing.py"),
    ],
)
def test_rules_that_do_not_exist(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        named(name)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "has no function metric"),
        ("import nothing_of_this_name", "cannot be executed (ModuleNotFoundError"),
        ("def metric(p, r, a): return 1 / 0", "it raised ZeroDivisionError: division by zero"),
        ("def metric(p, r, a): return 2", "it returned 2.0"),
        ("def metric(p, r, a): return float('nan')", "it returned nan"),
        ("def metric(p, r, a): return 'good'", "it raised ValueError"),
    ],
)
def test_a_function_that_cannot_be_used(tmp_path, code, message):
    file = tmp_path / "own.py"
    file.write_text(code)
    with pytest.raises(InputError, match=re.escape(message)):
        load(f"{file}:metric")("?", ["x"], "y")


def test_a_function_of_the_user(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def same(prompt, references, answer):\n    return answer in references\n")
    rule = named(f"{file}:same")
    assert measure(rule, "?", ["x", "y"], "y") == {"correct": None, "score": 1.0}
    before = rule_inputs(config(f"learn={file}:same"))
    file.write_text("def same(prompt, references, answer):\n    return 0\n")
    assert rule_inputs(config(f"learn={file}:same")) != before
