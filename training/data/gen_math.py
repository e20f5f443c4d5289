"""Arithmetic: direct answers for small numbers, digit by digit in thinking mode."""
from base import Turn, upper_first, vary
from words import ITEMS, NAMES


def _sum_steps(a, b):
    """Column addition as words, right to left."""
    xs, ys = str(a)[::-1], str(b)[::-1]
    carry, digits, steps = 0, [], []
    for i in range(max(len(xs), len(ys))):
        x, y = int(xs[i]) if i < len(xs) else 0, int(ys[i]) if i < len(ys) else 0
        total = x + y + carry
        steps.append(f"{x}+{y}" + (f"+{carry}" if carry else "") + f"={total}")
        carry, digits = total // 10, digits + [total % 10]
    if carry:
        digits.append(carry)
    shown = " ".join(str(d) for d in digits)
    return f"{', '.join(steps)}. From the right: {shown}. So {a}+{b}={a + b}."


def _difference_steps(a, b):
    """Column subtraction (a ≥ b) as words, right to left."""
    xs, ys = str(a)[::-1], str(b)[::-1]
    borrow, digits, steps = 0, [], []
    for i in range(len(xs)):
        x, y = int(xs[i]), (int(ys[i]) if i < len(ys) else 0) + borrow
        low = x < y
        digit = x + (10 if low else 0) - y
        steps.append((f"1{x}" if low else f"{x}") + f"-{y}={digit}")
        borrow, digits = int(low), digits + [digit]
    shown = " ".join(str(d) for d in digits)
    return f"{', '.join(steps)}. From the right: {shown}. So {a}-{b}={a - b}."


def _product_steps(a, b):
    """a × b by the digits of a (b below 10), or by tens and ones of b."""
    if b < 10:
        carry, digits, steps = 0, [], []
        for ch in str(a)[::-1]:
            total = int(ch) * b + carry
            steps.append(f"{ch}*{b}" + (f"+{carry}" if carry else "") + f"={total}")
            carry, digits = total // 10, digits + [total % 10]
        if carry:
            digits += [int(c) for c in str(carry)[::-1]]
        shown = " ".join(str(d) for d in digits)
        return f"{', '.join(steps)}. From the right: {shown}. So {a}*{b}={a * b}."
    tens, ones = b // 10, b % 10
    first = _product_steps(a, ones) if ones else f"{a}*0=0."
    return (f"{b} is {tens}0 and {ones}. {first} {_product_steps(a, tens)} "
            f"{a * tens}0+{a * ones}: {_sum_steps(a * tens * 10, a * ones)}")


def _number(rng, digits):
    return rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10 ** digits - 1)


def operands(rng, thinking):
    """(a, operator, b) of a size that the mode can do."""
    op = rng.choice("+++---**/")
    if op == "+":
        size = rng.choice((1, 2, 2, 3, 3, 3, 4) if thinking else (1, 2, 2, 2, 3, 3))
        a, b = _number(rng, size), _number(rng, rng.randint(max(1, size - 1), size))
        return (b, op, a) if rng.random() < 0.3 else (a, op, b)
    if op == "-":
        size = rng.choice((1, 2, 2, 3, 3, 3, 4) if thinking else (1, 2, 2, 2, 3, 3))
        a, b = _number(rng, size), _number(rng, rng.randint(max(1, size - 1), size))
        return (max(a, b), op, min(a, b))
    if op == "*":
        if rng.random() < 0.5:
            return (rng.randint(0, 12), op, rng.randint(0, 12))
        if thinking and rng.random() < 0.4:
            return (_number(rng, 2), op, rng.randint(11, 99))
        return (_number(rng, rng.choice((2, 2, 3) if thinking else (2,))), op, rng.randint(2, 9))
    b = rng.randint(2, 12)
    return (b * rng.randint(0, 12), op, b)


def key_of(a, op, b):
    """Split key of an exercise; the small tables are facts and always in the training data."""
    small = a <= 12 and b <= 12 and op in "+*" or op == "/" or op == "-" and a <= 20
    return "" if small else f"math|{a}{op}{b}"


def solve(a, op, b):
    """(result, thinking text)."""
    if op == "+":
        return a + b, _sum_steps(a, b)
    if op == "-":
        return a - b, _difference_steps(a, b)
    if op == "*":
        return a * b, _product_steps(a, b) if a > 12 or b > 12 else f"{a}*{b}={a * b}."
    return a // b, f"{b}*{a // b}={a}, so {a}/{b}={a // b}."


WORDS = {"+": ("plus", "{a} + {b}", "{a}+{b}", "the sum of {a} and {b}", "{a} and {b} together"),
         "-": ("minus", "{a} - {b}", "{a}-{b}", "the difference of {a} and {b}", "{b} less than {a}"),
         "*": ("times", "{a} * {b}", "{a}*{b}", "the product of {a} and {b}", "{a} x {b}"),
         "/": ("divided by", "{a} / {b}", "{a}/{b}", "{a} divided by {b}", "{a} : {b}")}


def arithmetic(rng, thinking=False):
    """A bare exercise."""
    a, op, b = operands(rng, thinking)
    result, steps = solve(a, op, b)
    word, *forms = WORDS[op]
    form = rng.choice(forms + [f"{{a}} {word} {{b}}"] * 3 + forms[:2] * 2).format(a=a, b=b)
    ask = rng.choice(("What is {}?", "What is {}?", "How much is {}?", "Calculate {}.",
                      "Compute {}.", "{} = ?", "{}", "{}=", "Work out {}.", "Please calculate {}.",
                      "Tell me what {} is.", "Solve {}."))
    user = vary(rng, ask.format(form))
    answer = f"{a} {'x' if op == '*' else op} {b} = {result}."
    return Turn(user, answer, key_of(a, op, b), f"{a}{op}{b}: {steps}", "number", str(result),
                "arithmetic")


STORIES = (
    ("+", "{n} has {a} {i} and gets {b} more. How many {i} does {n} have now?",
     "{n} has {r} {i} now."),
    ("+", "There are {a} {i} in one box and {b} in another box. How many {i} are there together?",
     "There are {r} {i} together."),
    ("+", "{n} bought {a} {i} on Monday and {b} {i} on Tuesday. How many did {n} buy?",
     "{n} bought {r} {i}."),
    ("-", "{n} has {a} {i} and gives {b} away. How many {i} are left?",
     "{n} has {r} {i} left."),
    ("-", "There were {a} {i} on the table. {n} took {b}. How many are left?",
     "There are {r} {i} left."),
    ("-", "{n} had {a} {i} but lost {b} of them. How many does {n} still have?",
     "{n} still has {r} {i}."),
    ("*", "{n} has {a} boxes with {b} {i} each. How many {i} are there?",
     "There are {r} {i}."),
    ("*", "One bag holds {b} {i}. How many {i} are in {a} bags?", "In {a} bags there are {r} {i}."),
    ("/", "{n} shares {a} {i} with {b} friends equally. How many does each friend get?",
     "Each friend gets {r} {i}."),
)


def word_problem(rng, thinking=False):
    """A small story with one operation."""
    op, text, reply = rng.choice(STORIES)
    while True:
        a, got, b = operands(rng, False)
        if got == op and a > 1 and b > 1 and (op != "*" or a <= 12 and b <= 12):
            break
    result, steps = solve(a, op, b)
    slots = {"n": rng.choice(NAMES), "i": rng.choice(ITEMS), "a": a, "b": b, "r": result}
    return Turn(text.format(**slots), reply.format(**slots), key_of(a, op, b),
                f"I calculate {a}{op}{b}: {steps}", "number", str(result), "arithmetic")


def compare(rng, thinking=False):
    """Which number is larger, even or odd, next number."""
    kind = rng.randrange(4)
    if kind == 0:
        size = rng.randint(1, 3)
        a, b = _number(rng, size), _number(rng, size)
        if a == b:
            b += 1
        big = rng.random() < 0.5
        result = max(a, b) if big else min(a, b)
        user = vary(rng, rng.choice(("Which number is {}, {} or {}?", "What is {}: {} or {}?")).format(
            rng.choice(("larger", "bigger", "greater")) if big else "smaller", a, b))
        answer = f"{result} is {'larger' if big else 'smaller'}."
        return Turn(user, answer, f"cmp|{a},{b}", f"I compare {a} and {b}.", "number",
                    str(result), "arithmetic")
    n = rng.randint(1, 998)
    if kind == 1:
        user = vary(rng, f"Is {n} even or odd?")
        word = "odd" if n % 2 else "even"
        return Turn(user, f"{n} is {word}.", f"odd|{n}", f"The last digit is {n % 10}, so {word}.",
                    "contains", word, "arithmetic")
    step = 1 if kind == 2 else -1
    side = "after" if step > 0 else "before"
    user = vary(rng, f"Which number comes {side} {n}?")
    return Turn(user, f"The number {side} {n} is {n + step}.", f"next|{side}{n}",
                f"{n}{'+' if step > 0 else '-'}1={n + step}.", "number", str(n + step),
                "arithmetic")


def any_math(rng, thinking=False):
    """A random exercise of any kind."""
    roll = rng.random()
    turn = (arithmetic if roll < 0.7 else word_problem if roll < 0.88 else compare)(rng, thinking)
    assert upper_first(turn.answer) == turn.answer
    return turn
