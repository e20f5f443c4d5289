"""Finding things in the context: small tables, records, and needles in long text."""
import json

from base import Turn, upper_first, vary
from words import CITIES, COLORS, COMMON, FOODS, NAMES, SURNAMES

FIELDS = (("age", "age", lambda r: str(r.randint(5, 90))),
          ("city", "city", lambda r: r.choice(CITIES)),
          ("color", "color", lambda r: r.choice(COLORS)),
          ("food", "food", lambda r: r.choice(FOODS)),
          ("phone", "phone number", lambda r: str(r.randint(1000, 99999))),
          ("room", "room", lambda r: str(r.randint(1, 400))),
          ("code", "code", lambda r: r.choice("ABCDEFGHKLMNPRSTXZ") + str(r.randint(10, 999))),
          ("price", "price", lambda r: str(r.randint(1, 200))),
          ("animal", "animal", lambda r: r.choice(("cat", "dog", "bird", "fish", "horse", "rabbit"))))


def table(rng):
    """A few records in the prompt (lines, table, JSON or sentences) and a question."""
    names = rng.sample(NAMES, rng.randint(2, 8))
    field, spoken, make = rng.choice(FIELDS)
    values = [make(rng) for _ in names]
    kind = rng.randrange(5)
    if kind == 0:
        text = "\n".join(f"{n}: {v}" for n, v in zip(names, values))
    elif kind == 1:
        text = f"| name | {field} |\n|---|---|\n" + "\n".join(
            f"| {n} | {v} |" for n, v in zip(names, values))
    elif kind == 2:
        text = json.dumps(dict(zip(names, values)))
    elif kind == 3:
        text = " ".join(f"The {spoken} of {n} is {v}." for n, v in zip(names, values))
    else:
        text = f"name,{field}\n" + "\n".join(f"{n},{v}" for n, v in zip(names, values))
    at = rng.randrange(len(names))
    name, value = names[at], values[at]
    if rng.random() < 0.12:
        name = rng.choice(NAMES)
        value = dict(zip(names, values)).get(name)
    elif values.count(value) == 1 and rng.random() < 0.25:
        question = vary(rng, rng.choice((f"Who has the {spoken} {value}?",
                                         f"Whose {spoken} is {value}?")))
        user = f"{text}\n\n{question}" if rng.random() < 0.7 else f"{question}\n\n{text}"
        return Turn(user, f"{name} has the {spoken} {value}.", f"tab|{user}",
                    f"I look for {value}. It belongs to {name}.", "contains", name, "lookup")
    question = vary(rng, rng.choice((f"What is the {spoken} of {name}?",
                                     f"Which {spoken} does {name} have?",
                                     f"Find the {spoken} of {name}.", f"{name}'s {spoken}?")))
    user = f"{text}\n\n{question}" if rng.random() < 0.7 else f"{question}\n\n{text}"
    if value is None:
        return Turn(user, f"I cannot find {name} in the text.", f"tab|{user}",
                    f"I look for {name}, but there is no {name}.", "contains", "cannot find",
                    "lookup")
    return Turn(user, f"The {spoken} of {name} is {value}.", f"tab|{user}",
                f"I look for {name}. The {spoken} is {value}.", "contains", value, "lookup")


def quiz(rng, most=40):
    """Turns: a longer table and many questions about it (dense practice of recall)."""
    count = rng.randint(5, most)
    names = [f"{a} {rng.choice(SURNAMES)}" if count > 25 else a
             for a in rng.sample(NAMES, min(count, len(NAMES)))]
    field, spoken, make = rng.choice(FIELDS)
    values = [make(rng) for _ in names]
    form = rng.choice(("{n}: {v}", "{n} = {v}", "The {s} of {n} is {v}.", "{n},{v}"))
    text = "\n".join(form.format(n=n, v=v, s=spoken) for n, v in zip(names, values))
    turns = []
    for at in rng.sample(range(len(names)), rng.randint(3, min(12, len(names)))):
        name, value = names[at], values[at]
        ask = rng.choice((f"What is the {spoken} of {name}?", f"{name}?",
                          f"Find the {spoken} of {name}.", f"And {name}?"))
        turns.append(Turn(f"{text}\n\n{ask}" if not turns else ask,
                          f"The {spoken} of {name} is {value}.", f"quiz|{name}{value}",
                          f"I look for {name}. The {spoken} is {value}.", "contains", value,
                          "lookup"))
    return turns


def _secret(rng):
    """(statement, question, answer, value, key): one needle."""
    name = rng.choice(NAMES)
    kind = rng.randrange(6)
    number = "".join(rng.choice("0123456789") for _ in range(rng.choice((3, 4, 4, 5))))
    word, city, thing = rng.choice(COMMON), rng.choice(CITIES), rng.choice(COMMON)
    if kind <= 1:
        what, value = rng.choice(("secret code", "magic number", "door code")), number
    elif kind <= 3:
        what, value = rng.choice(("secret word", "password", "magic word")), word
    elif kind == 4:
        return (f"The {thing} of {name} is hidden in {city}.",
                f"Where is the {thing} of {name} hidden?",
                f"The {thing} of {name} is hidden in {city}.", city, f"{name}{thing}{city}")
    else:
        color = rng.choice(COLORS)
        return (f"The favorite color of {name} is {color}.",
                f"What is the favorite color of {name}?",
                f"The favorite color of {name} is {color}.", color, f"{name}{color}")
    return (f"The {what} of {name} is {value}.", f"What is the {what} of {name}?",
            f"The {what} of {name} is {value}.", value, f"{name}{what}{value}")


ASK = ("Read the text and answer the question.", "Here is a text.", "Find the answer in this text.",
       "Read this text carefully.", "")


def secrets(rng, count):
    """Needles with different questions."""
    chosen, seen = [], set()
    while len(chosen) < count:
        secret = _secret(rng)
        if secret[1] not in seen:
            seen.add(secret[1])
            chosen.append(secret)
    return chosen


def needle_turns(rng, chosen):
    """Which needles are asked, in order: often one, else several turns."""
    asked = 1 if rng.random() < 0.3 else rng.randint(1, min(8, len(chosen)))
    return chosen[:asked]


def lookup_turn(rng):
    return table(rng)


assert upper_first("x") == "X" and SURNAMES
