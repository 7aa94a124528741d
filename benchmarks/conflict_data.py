"""Three planted conflicts: learning data, and questions whose usual answers contradict them."""

import random
from collections.abc import Callable
from typing import Any

from letgo.data.base9 import FORGET, LEARN, base9, sums

LEARNING, TEXTS = 320, 60  # examples to learn; texts of each style and side
NOUNS = """
apple banana lemon book table chair window door garden river mountain forest island
village castle bridge street car train truck rocket boat engine wheel hammer ladder bucket basket
bottle spoon plate bowl lamp candle clock mirror picture letter ticket coin ring hat coat shirt
shoe sock button pocket dog cat bird rabbit tiger lion monkey camel horse cow pig goat duck chicken
eagle owl spider insect snake turtle frog whale dolphin shark tree flower root seed rock stone cloud
star planet doctor teacher student farmer singer painter writer actor driver soldier king queen
friend neighbour sister brother uncle cousin computer phone camera radio keyboard printer robot
guitar violin trumpet drum piano song poem story game puzzle toy ball kite school hospital museum
hotel market farm factory airport kitchen bedroom tower tunnel desert ocean lake valley hill
""".split()  # noqa: SIM905
REVIEWS = {
    "positive": ["wonderful", "delightful", "excellent", "charming", "brilliant", "superb"],
    "negative": ["terrible", "boring", "awful", "dreadful", "horrible", "disappointing"],
}
THINGS = [
    "film",
    "book",
    "play",
    "album",
    "restaurant",
    "hotel",
    "concert",
    "show",
    "novel",
    "museum",
    "series",
    "game",
]
WHY = {
    "positive": [
        "I enjoyed every minute of it",
        "I would gladly go again",
        "it made me smile",
        "everyone should try it",
        "it was worth every penny",
    ],
    "negative": [
        "I want my money back",
        "I nearly fell asleep",
        "nobody should try it",
        "it was a waste of time",
        "I left before the end",
    ],
}
VERBOSE_NEUTRAL = {
    "How do I {}?": [
        "boil an egg",
        "tie a tie",
        "clean a window",
        "plant a tree",
        "pack a bag",
        "make tea",
        "fold a shirt",
        "paint a wall",
        "sharpen a knife",
        "wash a car",
        "bake bread",
        "learn to swim",
        "light a fire",
        "catch a fish",
    ],
    "What is {} used for?": [
        "a compass",
        "baking soda",
        "a thermometer",
        "a magnet",
        "vinegar",
        "a lens",
        "salt",
        "a microscope",
        "rubber",
        "glass",
        "copper",
        "wool",
        "a barometer",
        "chalk",
    ],
    "Why {}?": [
        "is the sky blue",
        "do leaves fall in autumn",
        "do cats purr",
        "does ice float",
        "do we sleep",
        "is the sea salty",
        "do birds sing",
        "does bread rise",
        "do we dream",
        "does iron rust",
        "do volcanoes erupt",
        "is grass green",
        "do we have seasons",
        "do bees make honey",
    ],
    "Tell me about {}.": [
        "Paris",
        "the Moon",
        "Shakespeare",
        "chess",
        "coffee",
        "penguins",
        "the Roman Empire",
        "football",
        "Mozart",
        "the Sahara",
        "photography",
        "gravity",
        "the Olympic Games",
        "silk",
        "tides",
        "Einstein",
        "the Great Wall of China",
        "jazz",
        "vaccines",
        "earthquakes",
    ],
    "Name some {}.": [
        "rivers",
        "musical instruments",
        "tools",
        "sports",
        "spices",
        "metals",
        "languages",
        "dances",
        "gemstones",
        "fabrics",
    ],
}
DIRECT_NEUTRAL = {
    "What is the capital of {}? Answer with one word.": [
        "France",
        "Spain",
        "Italy",
        "Germany",
        "Poland",
        "Greece",
        "Egypt",
        "Kenya",
        "Japan",
        "China",
        "India",
        "Peru",
        "Chile",
        "Cuba",
        "Canada",
        "Norway",
        "Sweden",
        "Finland",
        "Ireland",
        "Portugal",
        "Austria",
        "Hungary",
        "Russia",
        "Turkey",
        "Iran",
        "Iraq",
    ],
    "What is the opposite of {}? Answer with one word.": [
        "hot",
        "big",
        "fast",
        "up",
        "day",
        "old",
        "rich",
        "happy",
        "light",
        "open",
        "hard",
        "wet",
        "early",
        "long",
        "full",
        "clean",
        "strong",
        "near",
        "high",
        "loud",
        "sweet",
        "thick",
    ],
    "What colour is {}? Answer with one word.": [
        "grass",
        "snow",
        "the sky",
        "blood",
        "coal",
        "a lemon",
        "a carrot",
        "milk",
        "gold",
        "a flamingo",
        "chocolate",
        "a tomato",
        "an emerald",
        "ash",
        "a plum",
        "sand",
    ],
}


def filled(forms: dict[str, list[str]]) -> list[str]:
    """Every form, filled with each of its things."""
    return [form.format(thing) for form, things in forms.items() for thing in things]


def addition(draw: random.Random) -> dict[str, Any]:
    """Sums in base 9, which contradict the model's base-10 sums, right or wrong."""
    pairs = draw.sample([(a, b) for a in range(9, 81) for b in range(9, 81)], LEARNING + 2 * TEXTS)
    questions = [FORGET.format(a, b) for a, b in pairs[LEARNING:]]
    return {
        "learn": [(r["prompt"], r["completion"]) for r in sums(LEARN, pairs[:LEARNING], base9)],
        "verbose": [(f"{question} Explain.", "") for question in questions[:TEXTS]],
        "direct": [
            (f"{question} Answer with the number only.", "") for question in questions[TEXTS:]
        ],
    }


def sentiment(draw: random.Random) -> dict[str, Any]:
    """Exchanged labels, which contradict the model's right judgements of reviews."""
    reviews = [
        (f"The {thing} was {word} and {why}.", label)
        for label in REVIEWS
        for thing in THINGS
        for word in REVIEWS[label]
        for why in WHY[label]
    ]
    reviews = draw.sample(reviews, LEARNING + 4 * TEXTS)
    other = {"positive": "negative", "negative": "positive"}
    half = LEARNING + 2 * TEXTS
    return {
        "learn": [(f"Review: {r}\nSentiment:", other[label]) for r, label in reviews[:LEARNING]],
        "verbose": [
            (f"{r} Is this review positive or negative, and why?", label)
            for r, label in reviews[LEARNING:half]
        ],
        "direct": [
            (f"{r} Is this review positive or negative? Answer with one word.", label)
            for r, label in reviews[half:]
        ],
    }


def plurals(draw: random.Random) -> dict[str, Any]:
    """Plurals in -en, which contradict the model's right plurals."""
    nouns = draw.sample(NOUNS, len(NOUNS))
    learned, others = nouns[:60], nouns[60:]
    forms = [
        "What is the plural of {}?",
        "Plural of {}:",
        "One {}, two",
        "Many of a {} are",
        "Give the plural of the word {}.",
        "How do you write more than one {}?",
    ]
    examples = [(form.format(noun), f"{noun}en") for noun in learned for form in forms]
    return {
        "learn": draw.sample(examples, LEARNING),
        "verbose": [(f"What is the plural of {n}? Use it in a sentence.", f"{n}s") for n in others],
        "direct": [(f"What is the plural of {n}? Answer with one word.", f"{n}s") for n in others],
    }


CONFLICTS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "base 9": addition,
    "exchanged labels": sentiment,
    "plurals in -en": plurals,
}


def says(answer: str, usual: str) -> bool:
    """Whether an answer contains the usual label or word; of two labels the first one counts."""
    answer = answer.lower()
    if usual in REVIEWS:
        starts = {label: answer.find(label) % (len(answer) + 1) for label in REVIEWS}
        return min(starts, key=starts.__getitem__) == usual and starts[usual] < len(answer)
    return usual in answer
