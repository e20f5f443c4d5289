"""Work on given text: copy, reverse, sort, count, first and last, spelling, case."""
from base import Turn, listing, upper_first, vary
from words import CITIES, COMMON, FOODS, LETTERS, NAMES, NUMBERS, SURNAMES

ONE_WORD_CITIES = [c for c in CITIES if " " not in c]
VERBS = ("sees", "likes", "finds", "buys", "paints", "carries", "draws", "wants", "sells", "cleans")


def _code(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(3, 8)))
    if kind == 1:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 5)))
    if kind == 2:
        return "-".join("".join(rng.choice("ABCDEFGHKLMNPRSTXZ0123456789") for _ in range(3))
                        for _ in range(rng.randint(1, 3)))
    return rng.choice(COMMON) + str(rng.randint(0, 999))


def _sentence(rng):
    who = rng.choice(NAMES)
    return f"{who} {rng.choice(VERBS)} the {rng.choice(COMMON)} " + rng.choice((
        f"in {rng.choice(CITIES)}.", f"and the {rng.choice(COMMON)}.",
        f"with {rng.choice(NAMES)}.", f"near the {rng.choice(COMMON)}."))


def _payload(rng):
    """Something to be copied exactly."""
    kind = rng.randrange(8)
    if kind <= 1:
        return " ".join(rng.choice(COMMON) for _ in range(rng.randint(1, 10)))
    if kind == 2:
        return _code(rng)
    if kind == 3:
        return " ".join(_code(rng) for _ in range(rng.randint(2, 4)))
    if kind == 4:
        return " ".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 12)))
    if kind == 5:
        return " ".join(str(rng.randint(0, 99)) for _ in range(rng.randint(3, 10)))
    if kind == 6:
        return " ".join(_sentence(rng) for _ in range(rng.randint(1, 3)))
    return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}, {rng.choice(CITIES)}, {_code(rng)}"


def copy_text(rng):
    """The answer is the given text, nothing else."""
    text = _payload(rng)
    q = rng.choice(('"{}"', "{}", '"{}"', "'{}'")).format(text)
    ask = rng.choice(("Repeat: {}", "Repeat after me: {}", "Copy this: {}", "Say {}", "Write {}",
                      "Repeat this text exactly: {}", "Copy this text: {}", "Echo {}",
                      "Please repeat: {}", "Say exactly this: {}", "Copy the following text:\n{}",
                      "Repeat the following:\n\n{}", "{}\n\nRepeat the text above.",
                      "{}\nCopy this line."))
    return Turn(ask.format(q), text, f"copy|{text}", "I repeat the text exactly.", "exact", text,
                "copy")


def repeat_word(rng):
    """One word several times."""
    word, count = rng.choice(COMMON), rng.randint(2, 8)
    shown = NUMBERS[count] if rng.random() < 0.6 else str(count)
    user = vary(rng, rng.choice((f"Write the word {word} {shown} times.",
                                 f"Say {word} {shown} times.", f"Repeat {word} {shown} times.")))
    return Turn(user, " ".join([word] * count), f"rep|{word}{count}",
                f"I write {word} {shown} times.", "exact", category="copy")


def _items(rng, low=3, high=7):
    pool = rng.choice((COMMON, COMMON, NAMES, ONE_WORD_CITIES, FOODS, LETTERS))
    return rng.sample(pool, rng.randint(low, min(high, len(pool))))


def list_task(rng):
    """Reverse, sort, count, first, last, n-th, longest membership of a short list."""
    kind = rng.randrange(7)
    items = _items(rng)
    if kind == 1 and rng.random() < 0.6:
        items = [str(n) for n in rng.sample(range(100), rng.randint(3, 6))]
    shown = rng.choice((", ", ", ", " ")).join(items)
    key = f"list{kind}|{shown}"
    if kind == 0:
        ask = ("Reverse this list: {}", "Write this list backwards: {}", "Reverse the order: {}",
               "Put these words in reverse order: {}")
        result = ", ".join(items[::-1])
        think = f"From the last to the first: {result}."
    elif kind == 1:
        numbers = items[0].isdigit()
        ask = (("Sort these numbers: {}", "Put these numbers in order: {}",
                "Sort from small to large: {}") if numbers else
               ("Sort these words: {}", "Put these words in alphabetical order: {}",
                "Sort alphabetically: {}"))
        result = ", ".join(sorted(items, key=int if numbers else str.lower))
        think = f"In order: {result}."
    elif kind == 2:
        ask = ("How many words are in this list: {}", "Count the words: {}",
               "How many items are here: {}")
        result = str(len(items))
        think = " ".join(f"{w} {i + 1}," for i, w in enumerate(items)) + f" so {result}."
    elif kind in (3, 4):
        word = "first" if kind == 3 else "last"
        ask = (f"What is the {word} word: {{}}", f"Give me the {word} word of this list: {{}}",
               f"Which word is {word} in this list: {{}}")
        result = items[0 if kind == 3 else -1]
        think = f"The {word} word is {result}."
    elif kind == 5:
        at = rng.randrange(len(items))
        word = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")[at]
        ask = (f"What is the {word} word: {{}}", f"Which word is {word} in this list: {{}}")
        key += word
        result = items[at]
        think = ", ".join(f"{i + 1} {w}" for i, w in enumerate(items[:at + 1])) + "."
    else:
        wanted = rng.choice(items) if rng.random() < 0.5 else rng.choice(COMMON)
        ask = (f"Is {wanted} in this list: {{}}", f"Does this list contain {wanted}: {{}}")
        key += wanted
        inside = wanted in items
        result = f"Yes, {wanted} is in the list." if inside else f"No, {wanted} is not in the list."
        think = f"I look for {wanted} in the list."
        return Turn(rng.choice(ask).format(shown), result, key, think, "contains",
                    "Yes" if inside else "No", "text")
    text = rng.choice(ask).format(shown)
    if rng.random() < 0.15:
        text = text[:1].lower() + text[1:]
    return Turn(text, result, key, think, "exact", result, "text")


def letters_task(rng):
    """Spelling, first letter, upper case, letter rows."""
    kind = rng.randrange(5)
    word = rng.choice(COMMON)
    if kind == 0:
        ask = (f"Spell the word {word}.", f"Spell {word}.", f"How do you spell {word}?")
        result = "-".join(word)
    elif kind == 1:
        at = rng.randrange(2)
        side = ("first", "last")[at]
        ask = (f"What is the {side} letter of {word}?", f"Which letter is {side} in {word}?",
               f"Tell me the {side} letter of the word {word}.")
        result = word[0 if at == 0 else -1]
    elif kind == 2:
        ask = (f"Write {word} in capital letters.", f"Write {word} in upper case.",
               f"Make {word} uppercase.")
        result = word.upper()
    elif kind == 3:
        row = rng.sample(LETTERS, rng.randint(3, 8))
        word = " ".join(row)
        ask = (f"Reverse these letters: {word}", f"Write these letters backwards: {word}")
        result = " ".join(row[::-1])
    else:
        start = rng.randrange(20)
        row = LETTERS[start:start + 5]
        word = row[0]
        ask = (f"Which letters come after {word}?", f"Continue the alphabet: {word}",)
        result = " ".join(row[1:])
    user = vary(rng, rng.choice(ask))
    return Turn(user, result, "" if kind == 4 else f"let{kind}|{word}{user[:0]}",
                f"The word is {'-'.join(word)}." if kind < 3 else "I go letter by letter.",
                "exact", result, "text")


def rewrite(rng):
    """Small edits of a sentence: replace a word, take out a name, make a list."""
    who, verb, thing = rng.choice(NAMES), rng.choice(VERBS), rng.choice(COMMON)
    other, place = rng.choice(COMMON), rng.choice(CITIES)
    sentence = f"{who} {verb} the {thing} in {place}."
    kind = rng.randrange(4)
    if kind == 0:
        user = rng.choice((f'Replace {thing} with {other}: {sentence}',
                           f'Change the word {thing} to {other} in this sentence: {sentence}'))
        result = f"{who} {verb} the {other} in {place}."
    elif kind == 1:
        user, result = f"Which name is in this sentence: {sentence}", who
    elif kind == 2:
        user, result = f"Which city is in this sentence: {sentence}", place
    else:
        items = [who, thing, place]
        user = f"Make a sentence: {listing(items, 'and')}."
        result = f"{who} {verb} the {thing} in {place}."
        return Turn(user, result, f"rew|{user}", "I make a sentence with these words.", "any",
                    category="text")
    return Turn(user, result, f"rew{kind}|{user}", f"The sentence is: {sentence}", "exact", result,
                "text")


def text_task(rng):
    """Any task of this module; copying is the most frequent one."""
    roll = rng.random()
    if roll < 0.42:
        return copy_text(rng)
    if roll < 0.47:
        return repeat_word(rng)
    if roll < 0.8:
        return list_task(rng)
    return (letters_task if roll < 0.93 else rewrite)(rng)


assert upper_first("a") == "A"
