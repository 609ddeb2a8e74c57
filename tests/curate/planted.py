"""A corpus in which every document has a label that says what is wrong with it, or that nothing is."""

import json
import pathlib
import random
import re

import zstandard

SUBJECTS = [
    "river",
    "market",
    "garden",
    "library",
    "engine",
    "harbour",
    "village",
    "teacher",
    "mountain",
    "painter",
    "window",
    "kitchen",
    "bridge",
]
VERBS = [
    "follows",
    "carries",
    "remembers",
    "describes",
    "crosses",
    "repairs",
    "visits",
    "measures",
    "studies",
    "gathers",
    "covers",
    "opens",
]
THINGS = [
    "stone",
    "letter",
    "lantern",
    "basket",
    "machine",
    "picture",
    "journey",
    "season",
    "ticket",
    "shadow",
    "blanket",
    "bell",
    "story",
]
NOUNS = ["Haus", "Garten", "Brief", "Fluss", "Berg", "Wald", "Fenster", "Markt", "Schule", "Bild"]
SYLLABLES = [
    "ba",
    "den",
    "for",
    "gal",
    "hin",
    "jor",
    "kel",
    "lam",
    "mor",
    "nas",
    "pel",
    "rin",
    "sol",
    "tam",
    "ver",
    "wick",
]
TEMPLATES = (
    "The {subject} near {name} {verb} a {thing}, and that is how {name2} came to know of it.",
    "With the {thing} in hand, {name} {verb} what people of {name2} have called the {subject}.",
    "Nobody in {name} {verb} the {subject} without a {thing} that was made by {name2}.",
    "It is said to be {name} who {verb} each {thing} of the old {subject} at {name2}.",
    "When {name} {verb} some {thing}, the whole {subject} turns to {name2} for advice.",
    "Few visitors of {name} have seen how {name2} {verb} its {subject} by means of a {thing}.",
)
MENU = ["Home", "About us", "Log in", "Share", "Contact", "Read more", "Read more"]


def _name(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=3)).capitalize()


def sentence(rng: random.Random, template: str | None = None) -> str:
    words = {"subject": SUBJECTS, "verb": VERBS, "thing": THINGS}
    chosen = {key: rng.choice(values) for key, values in words.items()}
    return (template or rng.choice(TEMPLATES)).format(name=_name(rng), name2=_name(rng), **chosen)


def article(rng: random.Random) -> str:
    """Returns three paragraphs of four sentences each."""
    chosen = [*TEMPLATES, *TEMPLATES]
    rng.shuffle(chosen)
    lines = [sentence(rng, template) for template in chosen]
    return "\n".join(" ".join(lines[start : start + 4]) for start in range(0, 12, 4))


def _shouted(text: str) -> str:
    """Returns the same words with other punctuation, in which what begins with a capital is all in capitals."""
    return re.sub(r"\b[A-Z]\w+", lambda match: match[0].upper(), text).replace(",", " -").replace(". ", "!  ")


def _near(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for place in rng.sample(range(len(words)), 2):
        words[place] = rng.choice(THINGS)
    return " ".join(words)


def _german(rng: random.Random) -> str:
    parts = "Der Mann sieht das {} und geht mit seiner Frau durch den {}, weil es {} dort so gefällt."
    return "\n".join(parts.format(rng.choice(NOUNS), rng.choice(NOUNS), _name(rng)) for _ in range(8))


def _gibberish(rng: random.Random) -> str:
    signs = "#$%&*+=<>|~0123456789"
    lines = (["".join(rng.choices(signs, k=rng.randrange(2, 9))) for _ in range(12)] for _ in range(8))
    return "\n".join(" ".join(line) + "." for line in lines)


def make(folder: pathlib.Path, *, each: int = 12, clean: int = 40, seed: int = 0) -> dict[str, str]:
    """Writes two sources and evaluation texts, and returns the label of each document by its id."""
    rng = random.Random(seed)
    originals = [article(rng) for _ in range(clean)]
    questions = [f"{sentence(rng)} {sentence(rng)}" for _ in range(each)]
    found = [("clean", text) for text in originals]
    for n in range(each):
        found += [
            ("exact", originals[n]),
            ("simplified", _shouted(originals[n + each])),
            ("near", _near(originals[n + 2 * each], rng)),
            ("boilerplate", "\n".join([*MENU, f"Page {n}"] * 8)),
            ("gibberish", _gibberish(rng)),
            ("repeated", "\n".join([sentence(rng)] * 12)),
            ("german", _german(rng)),
            ("evaluation", f"{article(rng)}\n{questions[n]}\n{sentence(rng)}"),
            ("blocked", article(rng)),
            ("short", sentence(rng)),
        ]
    # Originals come first, for the first of each cluster is the one that stays.
    records = []
    for n, (label, text) in enumerate(found):
        host = "www.casino-spam.com" if label == "blocked" else "example.org"
        records.append({"text": text, "id": f"{label}-{n}", "views": n, "url": f"https://{host}/page/{n}"})
    head, tail = records[: clean + 5 * each], records[clean + 5 * each :]
    folder.mkdir(parents=True, exist_ok=True)
    # Two frames in one file, as tools that append leave them.
    frames = ["".join(json.dumps(record) + "\n" for record in half) for half in (head[:clean], head[clean:])]
    (folder / "a-web.jsonl.zst").write_bytes(b"".join(zstandard.compress(frame.encode()) for frame in frames))
    (folder / "b-forum.jsonl").write_text("".join(json.dumps(record) + "\n" for record in tail))
    (folder / "questions.jsonl").write_text("".join(json.dumps({"question": one}) + "\n" for one in questions))
    (folder / "domains.txt").write_text("# gambling\ncasino-spam.com\n")
    (folder / "mine.py").write_text(
        "def language(text):\n"
        "    found = set(text.lower().split()) & {'der', 'und', 'das', 'mit', 'durch'}\n"
        "    return ('de', 0.9) if len(found) > 2 else ('en', 0.9)\n"
        "def safe(text, document):\n"
        "    return 'a word of the list' if 'lantern' in text else True\n"
    )
    return {record["id"]: record["id"].partition("-")[0] for record in records}
