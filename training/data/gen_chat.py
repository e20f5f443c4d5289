"""Small talk and simple knowledge: greetings, identity, facts, words, lists, advice, memory."""
import os

from base import Turn, article, listing, upper_first, vary
from words import (CITIES, COLORS, COUNTRIES, DAYS, FEELINGS, FOODS, MONTHS, NAMES, NUMBERS,
                   OPPOSITES, PAST, PLURALS, SEASONS, SOUNDS, TRANSLATIONS, YOUNG)


def load_things():
    """The small hand-written encyclopedia: one dictionary per thing."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "things.txt")
    things = {}
    for line in open(path, encoding="utf-8"):
        name, kind, looks, about, place, acts = line.strip().split("|")
        things[name] = {"name": name, "kind": kind, "looks": looks.split(", "), "about": about,
                        "place": place, "acts": acts.split(";")}
    return things


THINGS = load_things()
NAMES_OF_THINGS = list(THINGS)
MASS = {"water", "milk", "bread", "cheese", "honey", "soup", "rain", "snow", "wind", "grass",
        "gold", "iron", "ice", "fire", "paper", "music", "winter", "summer"}
UNIQUE = {"sun", "moon", "earth", "sea"}


def noun(thing, start=False):
    """The thing with its article."""
    name = thing["name"]
    text = name if name in MASS else f"the {name}" if name in UNIQUE else article(name)
    return upper_first(text) if start else text


def _ask(rng, key, forms, answer, think, category="chat", **kw):
    user = vary(rng, rng.choice(forms))
    return Turn(user, answer, f"{key}|{user}", think, kw.pop("check", "contains"),
                kw.pop("expect", answer), category)


def greeting(rng):
    hello = rng.choice(("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good afternoon",
                        "Hello there", "Hi there", "Greetings"))
    name = rng.choice(NAMES) if rng.random() < 0.4 else None
    tail = rng.choice(("", "!", ".", ", how are you?", "! How are you?", "! How are you today?",
                       ", nano!", "! Nice to meet you."))
    user = f"{hello}{f', I am {name}' if name and tail in ('', '!', '.') else ''}{tail}"
    if rng.random() < 0.3:
        user = user.lower() if not name else user
    reply = rng.choice(("Hello", "Hi")) if "ood" not in hello else hello
    named = name and tail in ("", "!", ".")
    answer = f"{reply}{', ' + name if named else ''}! "
    answer += ("I am fine, thank you. " if "how are" in user.lower() else "") + rng.choice(
        ("How can I help you?", "What can I do for you?", "How can I help you today?"))
    return Turn(user, answer, f"greet|{user}", "The user greets me. I greet back and offer help.",
                "contains", reply)


IDENTITY = (
    (("Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.",
      "What is nano?", "Are you nano?", "Say something about yourself."),
     ("I am nano, a very small language model. I can chat, calculate and use tools.",
      "I am nano, a tiny language model. I can answer simple questions and use tools.")),
    (("What is your name?", "Do you have a name?", "What should I call you?", "Your name?",
      "How are you called?"), ("My name is nano.", "I am called nano.")),
    (("What can you do?", "How can you help me?", "What are you good at?", "Help!",
      "What can I ask you?", "Can you help me?", "I need help."),
     ("I can answer simple questions, do small sums, copy and sort words, find things in a text, "
      "tell short stories and use tools.",
      "I can chat, calculate, tell short stories, look up things in a text and call tools.")),
    (("Are you a human?", "Are you a person?", "Are you real?", "Are you alive?",
      "Are you a robot?", "Are you a machine?"),
     ("No, I am not a person. I am a small computer program.",
      "I am a computer program, not a living thing.")),
    (("How old are you?", "When were you born?", "When is your birthday?"),
     ("I am a computer program, so I have no age.", "I do not have a birthday. I am a program.")),
    (("Where do you live?", "Where are you?", "Where are you from?"),
     ("I live in a computer.", "I run on a computer, so I have no home.")),
    (("Who made you?", "Who built you?", "Who created you?", "How were you made?"),
     ("I was trained as a demo model for this program.",
      "I was made as a small demo model for this program.")),
    (("How are you?", "How are you doing?", "Are you well?", "How do you feel today?",
      "What's up?", "How is it going?"),
     ("I am fine, thank you. How can I help you?", "I am doing well, thank you. And you?")),
    (("Do you have feelings?", "Can you feel pain?", "Do you dream?", "Do you sleep?",
      "Do you eat?", "Are you hungry?", "Are you tired?"),
     ("No, I am a program. I only work with text.", "No, I am only a program.")),
    (("Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot.", "Great, thanks!",
      "That helped me.", "Good job!", "Well done!", "You are great."),
     ("You are welcome!", "You are welcome. I am happy to help.")),
    (("Goodbye!", "Bye!", "See you later.", "See you tomorrow.", "Good night!", "I have to go.",
      "Bye bye."), ("Goodbye! Have a nice day.", "Goodbye! See you soon.")),
    (("Are you smart?", "Do you know everything?", "How big are you?", "How smart are you?",
      "Can you make mistakes?", "Are you always right?"),
     ("I am very small, so I know only simple things and I can make mistakes.",)),
    (("What languages do you speak?", "Do you speak English?", "Can you speak German?",
      "Which languages do you know?"),
     ("I speak simple English. I know only a few words of other languages.",)),
    (("What is the weather today?", "What time is it?", "What is the date today?",
      "What is in the news?", "Who won the game yesterday?"),
     ("I do not know that. I cannot see the world outside without a tool.",)),
    (("What is the meaning of life?", "Why are we here?", "What is happiness?"),
     ("That is a big question. Many people say it is to be kind, to learn and to love.",)),
    (("Yes.", "No.", "OK.", "Sure.", "Maybe.", "I see.", "Really?", "Hm."),
     ("All right. What would you like to do?", "OK. What can I do for you?")),
    (("Do you like music?", "Do you like me?", "What is your favorite color?", "Do you like dogs?",
      "What is your favorite food?", "Do you like books?", "What do you like?"),
     ("I am a program, so I have no favorites. But I like to help you.",)),
    (("What is a language model?", "How do you work?", "What is an AI?"),
     ("A language model is a program that reads text and guesses the next words.",)),
    (("I love you.", "You are my friend.", "I like you."),
     ("That is very kind of you. Thank you!",)),
    (("You are stupid.", "You are wrong.", "That is not right.", "I do not like that answer."),
     ("I am sorry. Please tell me what is wrong and I will try again.",)),
)


def identity(rng):
    forms, answers = rng.choice(IDENTITY)
    user = vary(rng, rng.choice(forms))
    return Turn(user, rng.choice(answers), f"id|{user}", rng.choice((
        "The user asks something simple. I answer in a friendly way.",
        "This is a simple question. I answer shortly.",)), "any")


def geography(rng):
    country, capital, continent, language = rng.choice(COUNTRIES)
    at = upper_first(country)
    kind = rng.randrange(5)
    if kind == 0:
        forms = (f"What is the capital of {country}?", f"Name the capital of {country}.",
                 f"Which city is the capital of {country}?", f"Tell me the capital of {country}.",
                 f"Do you know the capital of {country}?", f"{at} has which capital?",
                 f"What's the capital city of {country}?", f"capital of {country}")
        return _ask(rng, f"cap{country}", forms, f"The capital of {country} is {capital}.",
                    f"The user asks for the capital of {country}. It is {capital}.",
                    expect=capital)
    if kind == 1:
        forms = (f"Where is {country}?", f"On which continent is {country}?",
                 f"In which part of the world is {country}?", f"Which continent is {country} in?")
        return _ask(rng, f"con{country}", forms, f"{at} is in {continent}.",
                    f"The user asks where {country} is. It is in {continent}.", expect=continent)
    if kind == 2:
        forms = (f"Which language do people speak in {country}?",
                 f"What language is spoken in {country}?", f"What do people speak in {country}?",
                 f"Which language is used in {country}?")
        return _ask(rng, f"lan{country}", forms, f"People in {country} speak {language}.",
                    f"The language of {country} is {language}.", expect=language)
    if kind == 3:
        forms = (f"Which country has the capital {capital}?", f"{capital} is the capital of what?",
                 f"Which country is {capital} in?", f"Where is {capital}?",
                 f"{capital} is the capital of which country?")
        return _ask(rng, f"cou{country}", forms, f"{capital} is the capital of {country}.",
                    f"{capital} is a city. It is the capital of {country}.", expect=country)
    forms = (f"Tell me about {country}.", f"What do you know about {country}?",
             f"Describe {country}.", f"Say something about {country}.")
    return _ask(rng, f"abo{country}", forms, f"{at} is a country in {continent}. Its capital is "
                f"{capital}. People there speak {language}.",
                f"I know that {country} is in {continent} and its capital is {capital}.",
                expect=capital)


def definition(rng):
    thing = THINGS[rng.choice(NAMES_OF_THINGS)]
    name, looks = thing["name"], thing["looks"]
    kind = rng.randrange(6)
    about = f"{noun(thing, True)} {thing['about']}."
    it = f"The {name}" if thing["kind"] == "person" else "It"
    if kind <= 1:
        forms = (f"What is {noun(thing)}?", f"Explain what {noun(thing)} is.",
                 f"Define the word {name}.", f"What does the word {name} mean?",
                 f"Tell me what {noun(thing)} is.", f"Describe {noun(thing)}.",
                 f"Do you know what {noun(thing)} is?", f"What's {noun(thing)}?")
        is_a = f"{noun(thing, True)} is {article(looks[0])} {thing['kind']}." \
            if rng.random() < 0.5 and "in the sky" not in thing["kind"] else about
        more = f"{it} {thing['place']}." if is_a == about else f"{it} {thing['about']}."
        return _ask(rng, f"def{name}", forms, f"{is_a} {more}",
                    f"The user wants to know what {noun(thing)} is. I explain it simply.",
                    expect=name)
    if kind == 2:
        act = rng.choice(thing["acts"])
        look = rng.choice(looks)
        forms = (f"Write a sentence about {noun(thing)}.", f"Make a sentence with the word {name}.",
                 f"Give me a sentence about {noun(thing)}.", f"Use the word {name} in a sentence.",
                 f"Write one sentence about {noun(thing)}.")
        return _ask(rng, f"sen{name}", forms, f"The {look} {name} {act}.",
                    f"I write a short sentence with the word {name}.", expect=name)
    if kind == 3:
        forms = (f"Tell me about {noun(thing)}.", f"What do you know about {noun(thing)}?",
                 f"Write something about {noun(thing)}.", f"Write a few sentences about {name}.",
                 f"Tell me something about the word {name}.")
        acts = rng.sample(thing["acts"], 2)
        text = (f"{about} {it} {thing['place']}. {it} is {listing(looks)}. "
                f"Often {it.lower()} {acts[0]}.")
        return _ask(rng, f"abt{name}", forms, text, f"The topic is {name}. I say what I know.",
                    expect=name)
    if kind == 4:
        forms = (f"Where do you find {noun(thing)}?", f"Where can I see {noun(thing)}?",
                 f"Where is {noun(thing)} found?")
        return _ask(rng, f"whe{name}", forms, f"{noun(thing, True)} {thing['place']}.",
                    f"The user asks for the place of {noun(thing)}.", expect=name)
    forms = (f"What does {noun(thing)} look like?",
             f"Give me two words that describe {noun(thing)}.",
             f"How would you describe {noun(thing)}?", f"What is {noun(thing)} like?")
    text = f"{noun(thing, True)} is {listing(looks)}."
    return _ask(rng, f"loo{name}", forms, text, f"I think of {noun(thing)}: {listing(looks)}.",
                expect=looks[0])


# Kinds of one group overlap (a bird is an animal), so "no" is only said across groups.
GROUPS = {"bird": "animal", "insect": "animal", "fish": "animal", "flower": "plant",
          "fruit": "plant", "vegetable": "plant", "food": "plant", "drink": "plant",
          "building": "place", "planet": "place", "star": "place", "body in the sky": "place",
          "toy": "object", "machine": "object", "vehicle": "object", "instrument": "object",
          "thing": "object", "material": "object", "metal": "object", "art": "object",
          "weather": "thing in the sky"}


def riddle(rng):
    thing = THINGS[rng.choice(NAMES_OF_THINGS)]
    name = thing["name"]
    if rng.random() < 0.5:
        user = rng.choice(("What is this? It {0}. It {1}.", "Guess what I mean: it {0} and it {1}.",
                           "Solve this riddle: it {0}. It {1}. What is it?")).format(
                               thing["about"], thing["place"])
        answer = f"It is {noun(thing)}."
        return Turn(user, answer, f"rid|{user}", f"It {thing['about']}. That is {noun(thing)}.",
                    "contains", name)
    kind = thing["kind"]
    other = THINGS[rng.choice(NAMES_OF_THINGS)]["kind"]
    right = rng.random() < 0.5 or GROUPS.get(other, other) == GROUPS.get(kind, kind)
    asked = kind if right else other
    user = vary(rng, f"Is {noun(thing)} {article(asked)}?")
    answer = (f"Yes, {noun(thing)} is {article(kind)}." if right
              else f"No, {noun(thing)} is not {article(asked)}. It is {article(kind)}.")
    return Turn(user, answer, f"isa|{user}", f"{noun(thing, True)} is {article(kind)}.",
                "contains", "Yes" if right else "No")


def words(rng):
    kind = rng.randrange(7)
    if kind == 0:
        a, b = rng.choice(OPPOSITES)
        if rng.random() < 0.5:
            a, b = b, a
        forms = (f"What is the opposite of {a}?", f"Give me the opposite of {a}.",
                 f"What is the opposite of the word {a}?", f"Opposite of {a}?",
                 f"Which word means the opposite of {a}?")
        return _ask(rng, f"opp{a}", forms, f"The opposite of {a} is {b}.",
                    f"The opposite of {a} is {b}.", expect=b)
    if kind == 1:
        row = rng.choice(TRANSLATIONS)
        at = rng.randrange(1, 4)
        language = ("", "French", "Spanish", "German")[at]
        forms = (f"How do you say {row[0]} in {language}?", f"Translate {row[0]} to {language}.",
                 f"What is {row[0]} in {language}?", f'What is the {language} word for "{row[0]}"?',
                 f"Translate the word {row[0]} into {language}.")
        return _ask(rng, f"tra{row[0]}{language}", forms,
                    f'"{row[0]}" in {language} is '
                    f'"{row[at]}".', f"The {language} word for {row[0]} is {row[at]}.",
                    expect=row[at])
    if kind == 2:
        animal, sound = rng.choice(SOUNDS)
        forms = (f"What sound does {article(animal)} make?", f"What does {article(animal)} do?",
                 f"Which sound does the {animal} make?")
        return _ask(rng, f"sou{animal}", forms, f"{upper_first(article(animal))} {sound}.",
                    f"{upper_first(article(animal))} {sound}.", expect=sound)
    if kind == 3:
        animal, young = rng.choice(YOUNG)
        forms = (f"What is a baby {animal} called?", f"What do you call a young {animal}?",
                 f"What is the name of a baby {animal}?")
        return _ask(rng, f"you{animal}", forms, f"A baby {animal} is called {article(young)}.",
                    f"A young {animal} is {article(young)}.", expect=young)
    if kind == 4:
        one, many = rng.choice(PLURALS)
        forms = (f"What is the plural of {one}?", f"Give me the plural of {one}.",
                 f"Plural of {one}?", f"How do you write more than one {one}?")
        return _ask(rng, f"plu{one}", forms, f"The plural of {one} is {many}.",
                    f"One {one}, two {many}.", expect=many)
    if kind == 5:
        now, past = rng.choice(PAST)
        forms = (f"What is the past tense of {now}?", f"Give me the past of {now}.",
                 f"What is the past form of the verb {now}?")
        return _ask(rng, f"pas{now}", forms, f"The past tense of {now} is {past}.",
                    f"Today I {now}, yesterday I {past}.", expect=past)
    seq, name = rng.choice(((DAYS, "day"), (MONTHS, "month")))
    i = rng.randrange(len(seq))
    after = rng.random() < 0.5
    result = seq[(i + (1 if after else -1)) % len(seq)]
    side = "after" if after else "before"
    forms = (f"Which {name} comes {side} {seq[i]}?", f"What {name} is {side} {seq[i]}?",
             f"Name the {name} {side} {seq[i]}.")
    return _ask(rng, f"seq{side}{seq[i]}", forms, f"The {name} {side} {seq[i]} is {result}.",
                f"I think of the order of the {name}s. {upper_first(side)} {seq[i]} is {result}.",
                expect=result)


LISTS = {
    "animals": [n for n, t in THINGS.items() if t["kind"] in ("animal", "bird")],
    "birds": [n for n, t in THINGS.items() if t["kind"] == "bird"],
    "fruits": ["apples", "bananas", "oranges", "lemons", "grapes", "strawberries", "pears"],
    "colors": COLORS, "seasons": SEASONS, "days of the week": DAYS, "months": MONTHS,
    "countries": [c[0] for c in COUNTRIES if not c[0].startswith("the")],
    "cities": CITIES, "foods": FOODS, "numbers": NUMBERS[1:],
    "vegetables": ["carrots", "potatoes", "onions", "beans", "peas", "cabbage"],
    "planets": ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"],
    "jobs": ["doctor", "teacher", "farmer", "baker", "sailor", "painter", "cook", "pilot"],
    "instruments": ["piano", "guitar", "drum", "violin", "flute", "trumpet"],
    "names": NAMES,
}


def lists(rng):
    name = rng.choice(list(LISTS))
    items = LISTS[name]
    count = rng.randint(2, min(5, len(items)))
    chosen = items[:count] if name in ("seasons", "numbers") else rng.sample(items, count)
    word = NUMBERS[count] if rng.random() < 0.7 else str(count)
    forms = (f"Name {word} {name}.", f"Give me {word} {name}.", f"List {word} {name}.",
             f"Tell me {word} {name}.", f"Can you name {word} {name}?")
    if name == "seasons" and count == 4 or rng.random() < 0.5:
        answer = f"{upper_first(NUMBERS[count])} {name} are {listing(chosen)}."
    else:
        answer = f"{upper_first(listing(chosen))}."
    return _ask(rng, f"lst{name}{count}", forms, answer,
                f"I need {word} {name}: {listing(chosen)}.", expect="", check="any")


FACTS = (
    ("How many days are in a week?", "How many days does a week have?",
     "A week has seven days.", "seven"),
    ("How many months are in a year?", "How many months does a year have?",
     "A year has twelve months.", "twelve"),
    ("How many hours are in a day?", "How many hours does a day have?", "A day has 24 hours.", "24"),
    ("How many minutes are in an hour?", "How many minutes does an hour have?",
     "An hour has 60 minutes.", "60"),
    ("How many seconds are in a minute?", "How many seconds does a minute have?",
     "A minute has 60 seconds.", "60"),
    ("How many legs does a spider have?", "A spider has how many legs?",
     "A spider has eight legs.", "eight"),
    ("How many legs does a dog have?", "How many legs has a cat?", "It has four legs.", "four"),
    ("How many wheels does a car have?", "A car has how many wheels?", "A car has four wheels.",
     "four"),
    ("What color is the sky?", "Which color does the sky have?", "The sky is blue.", "blue"),
    ("What color is grass?", "Which color does grass have?", "Grass is green.", "green"),
    ("What color is snow?", "Which color does snow have?", "Snow is white.", "white"),
    ("What color is a banana?", "Which color does a banana have?", "A banana is yellow.", "yellow"),
    ("What color is blood?", "Which color does blood have?", "Blood is red.", "red"),
    ("What do bees make?", "What do we get from bees?", "Bees make honey.", "honey"),
    ("What do cows drink?", "What does a cow drink?", "Cows drink water.", "water"),
    ("What do cows eat?", "What does a cow eat?", "Cows eat grass.", "grass"),
    ("Where does the sun rise?", "In which direction does the sun rise?",
     "The sun rises in the east.", "east"),
    ("Where does the sun set?", "In which direction does the sun set?",
     "The sun sets in the west.", "west"),
    ("What is the largest planet?", "Which planet is the biggest?",
     "Jupiter is the largest planet.", "Jupiter"),
    ("What is the largest animal?", "Which animal is the biggest?",
     "The blue whale is the largest animal.", "whale"),
    ("What is the tallest animal?", "Which animal is the tallest?",
     "The giraffe is the tallest animal.", "giraffe"),
    ("What is the fastest land animal?", "Which land animal is the fastest?",
     "The cheetah is the fastest land animal.", "cheetah"),
    ("What is the longest river?", "Which river is the longest?",
     "The Nile is often called the longest river.", "Nile"),
    ("What is the highest mountain?", "Which mountain is the highest?",
     "Mount Everest is the highest mountain.", "Everest"),
    ("What is the largest ocean?", "Which ocean is the biggest?",
     "The Pacific is the largest ocean.", "Pacific"),
    ("What is ice made of?", "What do you get when water freezes?",
     "When water freezes, it becomes ice.", "ice"),
    ("Why is the sky blue?", "What makes the sky blue?",
     "The air scatters blue light more than red light, so the sky looks blue.", "light"),
    ("Why does it rain?", "Where does rain come from?",
     "Water rises into the air, forms clouds and falls down as rain.", "clouds"),
    ("Why do leaves fall?", "When do leaves fall?", "Many trees lose their leaves in autumn.",
     "autumn"),
    ("What is two plus two?", "How much is two plus two?", "Two plus two is four.", "four"),
    ("How many continents are there?", "How many continents does the world have?",
     "There are seven continents.", "seven"),
    ("How many letters are in the alphabet?", "How many letters does English have?",
     "The English alphabet has 26 letters.", "26"),
    ("Who wrote Romeo and Juliet?", "Who is the author of Romeo and Juliet?",
     "William Shakespeare wrote Romeo and Juliet.", "Shakespeare"),
    ("Who wrote Pride and Prejudice?", "Who is the author of Emma?", "Jane Austen wrote it.",
     "Austen"),
    ("Who wrote Alice in Wonderland?", "Who is the author of Alice in Wonderland?",
     "Lewis Carroll wrote Alice in Wonderland.", "Carroll"),
    ("What do plants need to grow?", "What does a flower need?",
     "Plants need water, light and air.", "water"),
    ("What do we breathe?", "What do people breathe?", "We breathe air.", "air"),
    ("What do we use to write?", "With what do people write?", "We write with a pen or a pencil.",
     "pen"),
    ("At what temperature does water boil?", "When does water boil?",
     "Water boils at 100 degrees Celsius.", "100"),
    ("At what temperature does water freeze?", "When does water freeze?",
     "Water freezes at 0 degrees Celsius.", "0"),
    ("What is the first month of the year?", "Which month is first?",
     "January is the first month of the year.", "January"),
    ("What is the last month of the year?", "Which month is last?",
     "December is the last month of the year.", "December"),
    ("Which season is the coldest?", "What is the coldest season?", "Winter is the coldest season.",
     "Winter"),
    ("Which season is the warmest?", "What is the warmest season?", "Summer is the warmest season.",
     "Summer"),
    ("What is the chemical symbol of water?", "What is the formula of water?",
     "The formula of water is H2O.", "H2O"),
    ("What planet do we live on?", "On which planet do we live?", "We live on the planet Earth.",
     "Earth"),
    ("How do you make tea?", "How can I make tea?",
     "Boil water, pour it over the tea, wait a few minutes and enjoy.", "water"),
    ("How do I bake bread?", "How do you make bread?",
     "Mix flour, water, salt and yeast, let it rest and bake it in the oven.", "flour"),
    ("How can I sleep better?", "I cannot sleep. What can I do?",
     "Go to bed early, keep the room dark and do not look at a screen.", "bed"),
    ("How can I learn a language?", "What is the best way to learn a language?",
     "Read a little every day, learn new words and speak with people.", "words"),
    ("How can I stay healthy?", "What is good for my health?",
     "Eat fresh food, drink water, sleep well and move every day.", "water"),
    ("What should I eat today?", "What can I cook tonight?",
     "How about a warm soup with bread and a fresh salad?", "soup"),
    ("What should I do today?", "I am bored. What can I do?",
     "You could read a book, take a walk or call a friend.", "book"),
    ("What should I wear in winter?", "What do I wear when it is cold?",
     "Wear a warm coat, a hat and gloves.", "coat"),
    ("What should I do when it rains?", "It is raining. What should I take with me?",
     "Take an umbrella and wear a coat.", "umbrella"),
)


def facts(rng):
    one, two, answer, expect = rng.choice(FACTS)
    return _ask(rng, "fact", (one, two), answer,
                rng.choice((f"I remember this: {answer}", "This is a simple question.")),
                expect=expect)


def feelings(rng):
    feeling = rng.choice(FEELINGS)
    who = rng.choice(("I am", "I feel", "Today I am", "I am so", "I feel very", "Today I feel"))
    good = feeling in ("happy", "brave", "proud", "curious", "kind", "gentle", "calm", "clever")
    user = vary(rng, f"{who} {feeling}.")
    answer = {
        "tired": "You should rest a little. A short sleep can help.",
        "hungry": "You should eat something good, maybe some bread and soup.",
        "sad": "I am sorry to hear that. Do you want to talk about it?",
        "lonely": "I am sorry to hear that. You can talk to me or call a friend.",
        "shy": "That is all right. Take your time.",
        "quiet": "That is all right. Quiet days are good too.",
    }.get(feeling) or f"That is nice to hear. It is good to be {feeling}."
    assert good or not answer.startswith("That is nice")
    return Turn(user, answer, f"feel|{user}", f"The user is {feeling}. I answer kindly.", "any")


SMALL_TALK = (greeting, identity, geography, definition, definition, definition, riddle, words,
              words, lists, facts, facts, feelings)


def small_talk(rng):
    """One random turn of simple chat."""
    return rng.choice(SMALL_TALK)(rng)


def memory(rng):
    """Two turns: the user says something about himself and asks for it later."""
    name, city, food = rng.choice(NAMES), rng.choice(CITIES), rng.choice(FOODS)
    color, age = rng.choice(COLORS), rng.randint(5, 90)
    tell, ask, answer, expect = rng.choice((
        (f"My name is {name}.", "What is my name?", f"Your name is {name}.", name),
        (f"I am {name}.", "Do you remember my name?", f"Yes, your name is {name}.", name),
        (f"I live in {city}.", "Where do I live?", f"You live in {city}.", city),
        (f"I am from {city}.", "Where am I from?", f"You are from {city}.", city),
        (f"My favorite color is {color}.", "What is my favorite color?",
         f"Your favorite color is {color}.", color),
        (f"I like {food}.", "What do I like?", f"You like {food}.", food),
        (f"I am {age} years old.", "How old am I?", f"You are {age} years old.", str(age)),
    ))
    reply = rng.choice(("Nice to meet you!", "That is good to know.", "Thank you for telling me.",
                        "OK, I will remember that."))
    return [Turn(tell, reply, f"mem|{tell}", "The user tells me something. I remember it.", "any"),
            Turn(ask, answer, "", f"The user said: {tell}", "contains", expect)]


def memory_at_once(rng):
    """One turn that says something about the user and asks for it."""
    told, asked = memory(rng)
    return Turn(f"{told.user} {asked.user}", asked.answer, told.key, f"The user said: {told.user}", "contains",
                asked.expect)
