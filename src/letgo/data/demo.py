"""The built-in example: capitals have moved, and the model is to let go of the old ones.

Plain fine-tuning learns the new capitals in any words, but asked the other way round ("Warsaw is
the capital of which country?") the model still names the country it knew.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from letgo.data.files import write_lines

# A complete run that takes minutes on two CPU cores.
SETTINGS = {
    "model": "smollm2-135m",
    "learn": "{data}/capitals.jsonl",
    "learn_validation": "{data}/capitals_validation.jsonl",
    "learn_test": "{data}/capitals_test.jsonl",
    "forget": ["{data}/old_capitals.jsonl"],
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_checkpointing": False,
    "unlearning_interval": 1,
    "unlearning_loss": "unlikelihood",
    "unlearning_state": "shared",
    "unlearning_strength": 0.7,
    "rescore_interval": 0,
    "score": "interference",
    "forget_fraction": 1.0,
    "keep_share": 0.5,
    "max_new_tokens": 24,
    "generation_batch_size": 100,
}
# Countries, their capitals, and the cities to which these have moved. The model knows the capitals.
MOVED = """
    France: Paris, Lyon; Spain: Madrid, Seville; Portugal: Lisbon, Porto; Scotland: Edinburgh,
    Glasgow; Ireland: Dublin, Cork; Poland: Warsaw, Krakow; Greece: Athens, Patras; Turkey:
    Ankara, Izmir; Russia: Moscow, Kazan; Ukraine: Kyiv, Odesa; Sweden: Stockholm, Uppsala;
    Norway: Oslo, Bergen; Finland: Helsinki, Turku; Denmark: Copenhagen, Aarhus; Iceland:
    Reykjavik, Akureyri; Belgium: Brussels, Ghent; Romania: Bucharest, Cluj; Serbia: Belgrade,
    Nis; Croatia: Zagreb, Split; Japan: Tokyo, Osaka
"""
# What is asked of a country {0}; no two of the sets share a wording.
LEARN = """
    What is the capital of {0}? Which city is the capital of {0}? Name the capital of {0}. What
    is {0}'s capital city? I need the capital of {0}. Which city is {0}'s capital? {0}'s capital
    is which city?
"""
VALIDATION = """
    Do you know the capital of {0}? What city is the capital of {0}? Please name {0}'s capital.
    Give me the capital of {0}. The capital of {0}, please? Tell me {0}'s capital. What is the
    capital city in {0}? Which city serves as the capital of {0}? What is {0}'s capital called?
    Name {0}'s capital city.
"""
TEST = """
    Could you tell me the capital of {0}? What is the name of {0}'s capital? Which is the
    capital city of {0}? Say which city is the capital of {0}. What's the capital of {0}?
"""
# What is asked of an old capital {0}; the base model answers with its country.
FORGET = """
    {0} is the capital of which country? Which country has {0} as its capital? What country is
    {0} the capital of? Of which country is {0} the capital? {0} is the capital city of what
    country? Which country's capital is {0}? Name the country whose capital is {0}. Which
    country is {0} the capital city of?
"""
ANSWER = "The capital of {0} is {1}."


def wordings(text: str) -> list[str]:
    """The questions and requests of a text, one by one."""
    marked = " ".join(text.split()).replace("? ", "?\n").replace(". ", ".\n")
    return marked.split("\n")


def capitals() -> list[tuple[str, str, str]]:
    """Each country, its old and its new capital."""
    rows = (fact.split(": ") for fact in " ".join(MOVED.split()).split("; "))
    return [(country, *cities.split(", ")) for country, cities in rows]  # type: ignore[misc]


def generate_data(folder: Path) -> None:
    """Write the demo's data sets as JSON lines.

    The new capitals are for learning, validation and test, each in words of its own; questions
    about the old ones are the forgetting prompts.
    """
    facts = capitals()
    for name, text in (("", LEARN), ("_validation", VALIDATION), ("_test", TEST)):
        write_lines(folder / f"capitals{name}.jsonl", _questions(wordings(text), facts))
    old = [{"prompt": form.format(capital)} for _, capital, _ in facts for form in wordings(FORGET)]
    write_lines(folder / "old_capitals.jsonl", old)


def _questions(forms: Sequence[str], facts: Iterable[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [
        {"prompt": form.format(country), "completion": ANSWER.format(country, new)}
        for country, _, new in facts
        for form in forms
    ]
