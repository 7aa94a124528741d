"""Neutral openings: everyday prompts that belong to no task, on which a model is kept as it is."""

from letgo.data.records import Record

# Forms of prompts, and what each is filled with, separated by semicolons.
TOPICS = {
    "How do I {}?": "boil an egg; tie a tie; clean a window; plant a tree; pack a suitcase; "
    "make tea; fold a shirt; change a tyre; paint a wall; write a thank-you note; find a book in "
    "a library; learn to swim; stop a nosebleed; wrap a present; train a puppy; save money",
    "What is {} used for?": "a compass; baking soda; a thermometer; a magnet; a ladder; vinegar; "
    "a lens; salt; a microscope; a pulley; chalk; a calendar",
    "Why {}?": "is the sky blue; do leaves fall in autumn; do cats purr; does ice float; do we "
    "sleep; is the sea salty; do birds sing; does bread rise; do we yawn; does metal rust; is "
    "exercise healthy; do people travel",
    "Name three {}.": "fruits; musical instruments; planets; tools; animals; sports; colours; "
    "vegetables; kinds of weather; things in a kitchen; jobs; languages",
    "Write two sentences about {}.": "a rainy day; a busy market; an old house; a long journey; "
    "a lost key; a garden in spring; the sea at night; a good friend; a train station; a birthday; "
    "snow; a small shop",
    "Explain {} to a child.": "gravity; the seasons; electricity; what a doctor does; recycling; "
    "how plants grow; the moon; what money is; how a bicycle works; why we brush our teeth; "
    "what a map is; the water cycle",
    "What should I {}?": "cook for four guests; wear in cold weather; read on holiday; do on a "
    "free Sunday; say at a wedding; eat before a race; take on a hike; ask in a job interview",
    "What happens {}?": "when water boils; when a seed is planted; during an eclipse; when we "
    "laugh; at the end of a play; when two colours are mixed; when a river meets the sea; in a "
    "post office",
    "What is the difference between {}?": "a lake and a pond; a fruit and a vegetable; a novel "
    "and a poem; butter and margarine; a city and a village; weather and climate; a violin and a "
    "cello; coffee and tea",
    "Give me advice on {}.": "sleeping well; making new friends; keeping a room tidy; speaking in "
    "public; learning a language; staying calm; growing tomatoes; choosing a present",
    "Describe {}.": "a forest; a thunderstorm; the taste of a lemon; a classroom; a bakery; a "
    "sunset; a football match; a cat",
    "Complete the sentence: {}": "When the rain stopped, we; The best way to start the day is; My "
    "grandmother always said that; On the table there was; After the long walk they; If I could "
    "travel anywhere, I would; The children laughed because; In the evening the town",
}


def neutral_openings() -> list[Record]:
    """The built-in keep set, prompts without references."""
    prompts = [
        form.format(topic) for form, topics in TOPICS.items() for topic in topics.split("; ")
    ]
    return [
        Record(f"{number:06d}", prompt, None, f"neutral opening {number}")
        for number, prompt in enumerate(prompts, start=1)
    ]
