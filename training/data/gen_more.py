"""More small talk: notes and letters, comparisons, counting, honest ignorance, word meanings."""
import collections
import re

from base import Turn, article, listing, upper_first, vary
from gen_chat import NAMES_OF_THINGS, THINGS, noun
from words import CITIES, COLORS, COMMON, DAYS, FOODS, NAMES, NUMBERS, SURNAMES

# Animals from small to large; only clear steps are compared.
SIZES = ("ant", "bee", "mouse", "rabbit", "dog", "wolf", "horse", "elephant", "whale")
MIXES = (("red", "blue", "purple"), ("red", "yellow", "orange"), ("blue", "yellow", "green"),
         ("black", "white", "gray"), ("red", "white", "pink"))
EVENTS = ("birthday", "party", "wedding", "dinner", "concert", "picnic", "meeting", "lesson")
MEANINGS = []  # (word, kind, meaning), filled from the dictionary part of the corpus
IGNORANT = ("I do not know that. I am only a small model.", "I am sorry, I do not know that.",
            "I do not know. Maybe you can look it up.")


def learn_words(documents):
    """Takes short, plain dictionary lines for questions about words that novels use."""
    used = collections.Counter(re.findall("[a-z]+", " ".join(
        t for source, t in documents if source in ("austen", "alice29"))))
    MEANINGS.clear()
    known = set(THINGS)
    for source, text in documents:
        for line in text.split("\n") if source == "wordnet" else ():
            head, _, meaning = line.partition("): ")
            word, _, kind = head.partition(" (")
            meaning = meaning.split(" Example: ")[0].rstrip(".")
            if (len(word) <= 8 and len(meaning) <= 70 and "(" not in meaning and " " not in word
                    and word.isalpha() and kind in ("noun", "verb", "adjective")
                    and word not in known
                    and used[word] >= 5):
                known.add(word)  # one meaning per word, so that there is one right answer
                MEANINGS.append((word, kind, meaning))


def meaning(rng):
    if not MEANINGS:
        return ignorance(rng)
    word, kind, text = rng.choice(MEANINGS)
    user = vary(rng, rng.choice((f"What does {word} mean?", f"Define the word {word}.",
                                 f"What is the meaning of {word}?", f"What does the {kind} {word} "
                                 "mean?", f"Explain the word {word}.")))
    if kind == "noun":
        answer = f"The word {word} means: {text}."
    else:
        answer = f"The {kind} {word} means: {text}."
    return Turn(user, answer, "m", f"The user asks for the meaning of {word}.", "any")


def ignorance(rng):
    """Things that a small model cannot know."""
    name = f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    user = vary(rng, rng.choice((
        f"Who is {name}?", f"Where does {name} live?", f"What happened in {rng.randint(1000, 2020)}?",
        f"How many people live in {rng.choice(CITIES)}?", f"What is the phone number of {name}?",
        f"How far is it from {rng.choice(CITIES)} to {rng.choice(CITIES)}?",
        f"What did I eat last {rng.choice(DAYS)}?", "What am I thinking?", "Where is my key?",
        f"How much does {article(rng.choice(COMMON))} cost?", "What is my password?",
        f"What will happen next {rng.choice(DAYS)}?", f"When was {name} born?")))
    return Turn(user, rng.choice(IGNORANT), "m", "I cannot know this. I say so.", "any")


def note(rng):
    """A short letter, card or invitation."""
    name, event, day, food = (rng.choice(x) for x in (NAMES, EVENTS, DAYS, FOODS))
    kind = rng.randrange(4)
    if kind == 0:
        ask = (f"Write a birthday card for {name}.", f"Write a birthday message to {name}.")
        text = (f"Dear {name}, happy birthday! I wish you a wonderful day with cake and good "
                "friends.")
    elif kind == 1:
        ask = (f"Write an invitation to a {event} for {name}.",
               f"Invite {name} to my {event} on {day}.")
        text = f"Dear {name}, please come to my {event} on {day}. There will be {food}. See you soon!"
    elif kind == 2:
        ask = (f"Write a thank you note to {name}.", f"Help me thank {name} for the {food}.")
        text = f"Dear {name}, thank you very much for the {food}. It was very kind of you."
    else:
        ask = (f"Write a short email to {name}. I am ill and cannot come to the {event}.",
               f"Tell {name} in a letter that I cannot come to the {event}.")
        text = (f"Dear {name}, I am sorry, but I am ill and cannot come to the {event}. "
                "I hope to see you soon.")
    return Turn(vary(rng, rng.choice(ask)), text, "m", f"I write a short text to {name}.", "any")


def compare(rng):
    """Larger animal, mixed color."""
    if rng.random() < 0.4:
        a, b, c = rng.choice(MIXES)
        if rng.random() < 0.5:
            a, b = b, a
        user = vary(rng, rng.choice((f"What color do you get from {a} and {b}?",
                                     f"Which color is {a} mixed with {b}?")))
        return Turn(user, f"{upper_first(a)} and {b} make {c}.", "m", f"{a} and {b} make {c}.",
                    "contains", c)
    i = rng.randrange(len(SIZES) - 1)
    j = rng.randrange(i + 1, len(SIZES))
    small, large = SIZES[i], SIZES[j]
    first, second = (small, large) if rng.random() < 0.5 else (large, small)
    big = rng.random() < 0.6
    right, other = (large, small) if big else (small, large)
    user = vary(rng, f"Which is {'bigger' if big else 'smaller'}, {article(first)} or "
                f"{article(second)}?")
    answer = f"{upper_first(article(right))} is {'bigger' if big else 'smaller'} than " \
        f"{article(other)}."
    return Turn(user, answer, "m", f"I compare {article(first)} and {article(second)}.",
                "contains", right)


def counting(rng):
    """Number rows and the alphabet."""
    kind = rng.randrange(3)
    if kind == 0:
        start = rng.randint(1, 90)
        end = start + rng.randint(2, 9)
        ask = (f"Count from {start} to {end}.", f"Write the numbers from {start} to {end}.")
        text = ", ".join(str(n) for n in range(start, end + 1))
    elif kind == 1:
        end, start = rng.randint(1, 20), 0
        start = end + rng.randint(2, 9)
        ask = (f"Count down from {start} to {end}.", f"Count backwards from {start} to {end}.")
        text = ", ".join(str(n) for n in range(start, end - 1, -1))
    else:
        n = rng.randint(1, 20)
        ask = (f"Write the number {n} as a word.", f"How do you write {n} in words?")
        text = NUMBERS[n]
    return Turn(vary(rng, rng.choice(ask)), text, "m", "I go one step at a time.", "exact", text)


def complete(rng):
    """Sentences to be finished and reasons."""
    kind = rng.randrange(3)
    thing = THINGS[rng.choice(NAMES_OF_THINGS)]
    while kind == 2 and thing["kind"] not in ("animal", "bird", "toy", "vehicle"):
        thing = THINGS[rng.choice(NAMES_OF_THINGS)]
    act = rng.choice(thing["acts"])
    if kind == 0:
        look = thing["looks"][0]
        user = rng.choice((f"Complete the sentence: The {look} {thing['name']}",
                           f"Finish this sentence: The {look} {thing['name']} ..."))
        return Turn(user, f"The {look} {thing['name']} {act}.", "m",
                    f"I think of {noun(thing)}.", "contains", thing["name"])
    if kind == 1:
        user = vary(rng, rng.choice((f"Write two sentences about {noun(thing)}.",
                                     f"Write three sentences about {noun(thing)}.")))
        acts = list(thing["acts"])
        parts = [f"{noun(thing, True)} {thing['about']}.", f"The {thing['name']} {acts[0]}."]
        if "three" in user:
            parts.append(f"Sometimes the {thing['name']} {acts[-1]}.")
        return Turn(user, " ".join(parts), "m", f"I write about {noun(thing)}.", "any")
    color = rng.choice(COLORS)
    user = vary(rng, f"Give me a name for my {color} {thing['name']}.")
    names = rng.sample(NAMES, 2)
    return Turn(user, f"You could call it {listing(names, 'or')}.", "m",
                "I think of two nice names.", "any")


KINDS = (meaning, meaning, ignorance, note, compare, counting, complete, complete)


def more_talk(rng):
    """One random turn of this module."""
    return rng.choice(KINDS)(rng)
