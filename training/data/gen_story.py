"""Very short stories, letters and poems in simple English, by grammar."""
from base import Turn, article, upper_first, vary
from gen_chat import MASS, THINGS
from words import BOYS, COLORS, DAYS, FOODS, GIRLS

ANIMALS = [t for t in THINGS.values() if t["kind"] in ("animal", "bird")]
PLACES = ["forest", "garden", "village", "city", "farm", "mountain", "river", "lake", "castle",
          "island", "market", "school", "old mill", "harbor", "meadow", "valley"]
TREASURES = ["key", "ball", "book", "kite", "coin", "ring", "map", "letter", "lamp", "box", "hat",
             "drum", "boat", "stone", "shell", "feather", "bell", "crown"]
OPENINGS = ("Once upon a time", "One day", "Long ago", "One sunny morning", "On a cold evening",
            "Many years ago", "Last {day}", "One quiet night", "In a small {place2}")
LESSONS = ("{N} learned that it is good to help others.", "{N} learned to be patient.",
           "From that day on, {n} and the {b} were best friends.",
           "{N} never forgot that day.", "Everyone was happy, and {n} smiled.",
           "{N} learned that small friends can be great friends.",
           "That night, {n} slept very well.", "{N} learned that it is good to share.",
           "And so the {look} {a} was not alone any more.")
WEATHER = ("The sun was shining.", "It was raining.", "The wind was cold.", "The sky was blue.",
           "Snow was falling.", "The birds were singing.", "It was very quiet.",
           "The stars were bright.")

LOST = (
    "{Open}, there was {aa} named {N}. {N} lived near the {place}.",
    "{Open}, {aa} named {N} lived near the {place}.",
    "{Open}, {look} {N} the {a} went for a walk near the {place}.",
)
PLOTS = (
    # lost and found
    ("{weather} {N} had {acolor} {item} and loved it very much. But one day the {item} was gone.",
     "{N} looked under the table, behind the door and near the {place2}. The {item} was not there.",
     "Then {n} met {ab}. \"Why are you so sad?\" asked the {b}. \"I lost my {color} {item},\" said "
     "{n}.", "\"I saw it near the {place3},\" said the {b}. They went there together.",
     "There it was! The {item} was lying under a big tree. {N} was very happy and thanked the {b}."),
    # hungry friend
    ("{weather} {N} was on the way to the {place2} with a basket of {food}.",
     "Next to the road sat {ab}. \"I am so hungry,\" said the {b}. \"I have not eaten all day.\"",
     "{N} looked at the {food}. It was not much. But {n} gave half of it to the {b}.",
     "The next day {n} fell into a deep hole and could not get out. \"Help!\" called {n}.",
     "The {b} heard the call and came with a long rope. Soon {n} was free again."),
    # afraid
    ("{N} was afraid of the dark {place2}. Nobody went there at night.",
     "One evening {n} heard a small voice. \"Please help me,\" it said. \"I cannot find my way.\"",
     "{N} took a lamp and walked into the {place2}. {weather}",
     "There was {ab} sitting on a stone. It was only small and very scared.",
     "\"Come with me,\" said {n}. They walked home together, and the dark did not look so bad."),
    # building something
    ("{N} wanted to build {acolor} {build}. It was hard work.",
     "First {n} looked for wood in the {place2}. Then {n} asked {ab} for help.",
     "\"I am too busy,\" said the {b}. But then the {b} saw how hard {n} worked.",
     "So the {b} came back with nails and a hammer. They worked until the evening.",
     "At last the {build} was ready. It was the best {build} far and wide."),
    # race / contest
    ("Every year there was a race to the {place2}. {N} wanted to win.",
     "\"You are too slow,\" laughed {ab}. But {n} practiced every day.",
     "On the day of the race {weather2} {N} ran and ran.",
     "Near the {place3} the {b} fell down and hurt a leg. {N} stopped and helped.",
     "They came in last, but all the people cheered. \"You won something better,\" they said."),
    # gift
    ("It was the birthday of {b2}. {N} wanted to give {b2} a present.",
     "{N} had no money, so {n} went to the {place2} and looked for something nice.",
     "There {n} found {acolor} {item}. It was old and dirty, but {n} washed it.",
     "{weather} All the friends came to the party and ate {food}.",
     "{b2} opened the box and smiled. \"This {item} is the best present of all,\" said {b2}."),
)
BUILDS = ("house", "boat", "bridge", "tower", "bed", "table", "cart", "nest")


def story_text(rng, hero=None):
    """(title words, text): a story of one hero."""
    a = hero or rng.choice(ANIMALS)
    b = rng.choice(ANIMALS)
    while b is a:
        b = rng.choice(ANIMALS)
    places = rng.sample(PLACES, 3)
    name = rng.choice(GIRLS + BOYS)
    look = rng.choice(a["looks"])
    friend = rng.choice(GIRLS + BOYS)
    weather = rng.choice(WEATHER)
    color = rng.choice(COLORS)
    slots = {
        "a": a["name"], "N": name, "n": name, "b": b["name"], "look": look,
        "aa": article(f"{look} {a['name']}"), "ab": article(f"{rng.choice(b['looks'])} {b['name']}"),
        "place": places[0], "place2": places[1], "place3": places[2], "weather": weather,
        "weather2": weather[:1].lower() + weather[1:], "color": color, "acolor": article(color),
        "item": rng.choice(TREASURES), "food": rng.choice(FOODS), "b2": friend,
        "build": rng.choice(BUILDS), "day": rng.choice(DAYS)}
    opening = rng.choice(OPENINGS).format(**slots)
    parts = [rng.choice(LOST).format(Open=opening, **slots)]
    parts += [p.format(**slots) for p in rng.choice(PLOTS)]
    parts.append(rng.choice(LESSONS).format(**slots))
    return slots, parts


def story(rng):
    """A request for a story and the story."""
    if rng.random() < 0.75:
        hero = rng.choice(ANIMALS)
        slots, parts = story_text(rng, hero)
        subject = article(hero["name"])
        forms = (f"Tell me a story about {subject}.", f"Tell me a short story about {subject}.",
                 f"Write a story about {subject}.", f"Write a short story about {subject}.",
                 f"I want to hear a story about {subject}.", f"Can you tell a story about {subject}?",
                 f"Make up a story about {subject} named {slots['N']}.")
    else:
        slots, parts = story_text(rng)
        forms = ("Tell me a story.", "Tell me a short story.", "Write a story.",
                 "I want to hear a story.", "Can you tell me a bedtime story?",
                 f"Tell me a story about {article(slots['a'])} and {article(slots['b'])}.")
    user = vary(rng, rng.choice(forms))
    text = " ".join(parts) if rng.random() < 0.7 else "\n\n".join(
        (" ".join(parts[:2]), " ".join(parts[2:4]), " ".join(parts[4:])))
    think = f"I tell a short story about {article(slots['a'])} named {slots['N']}."
    return Turn(user, text, f"story|{user}", think, "any", category="story")


def story_page(rng):
    """A story as plain text (no chat)."""
    slots, parts = story_text(rng)
    title = rng.choice((f"{slots['N']} and the {upper_first(slots['b'])}",
                        f"The {upper_first(slots['a'])} of the {upper_first(slots['place'])}",
                        f"The {upper_first(slots['look'])} {upper_first(slots['a'])}"))
    return f"{title}\n\n" + " ".join(parts)


def story_question(rng):
    """A story in the prompt and a question about it."""
    slots, parts = story_text(rng)
    text = " ".join(parts)
    asks = [("What is the name of the " + slots["a"] + "?", slots["N"]),
            (f"Which animal is {slots['N']}?", slots["a"])]
    if f"{slots['color']} {slots['item']}" in text:
        asks.append((f"What color was the {slots['item']}?", slots["color"]))
    if f"{slots['color']} {slots['build']}" in text:
        asks.append((f"What did {slots['N']} build?", slots["build"]))
        asks.append((f"What color was the {slots['build']}?", slots["color"]))
    if f"basket of {slots['food']}" in text:
        asks.append(("What was in the basket?", slots["food"]))
    if f"birthday of {slots['b2']}" in text:
        asks.append(("Whose birthday was it?", slots["b2"]))
    question, answer = rng.choice(asks)
    user = rng.choice((f"{text}\n\n{question}", f"Read this story: {text}\n\n{question}",
                       f"{question}\n\n{text}"))
    return Turn(user, f"{upper_first(answer)}.", f"sq|{user}", f"The story says it: {answer}.",
                "contains", answer, "lookup")


def poem(rng):
    """A short rhyme about one thing."""
    rhymes = (("day", "way"), ("night", "light"), ("tree", "me"), ("sky", "high"), ("sun", "run"),
              ("sea", "free"), ("snow", "slow"), ("star", "far"), ("rain", "again"))
    (a, b), (c, d) = rng.sample(rhymes, 2)
    thing = rng.choice([t for t in THINGS.values() if t["name"] not in MASS
                        and t["kind"] not in ("place", "season", "weather")])
    name, look = thing["name"], rng.choice(thing["looks"])
    endings = {"day": f"The {name} is {look} today,".replace("today", "all day"),
               "night": f"The {look} {name} was here at night,",
               "tree": f"The {name} was near a tree,", "sky": f"I saw {article(look)} {name} "
               "under the sky,", "sun": f"The {name} is out in the sun,",
               "sea": f"The {look} {name} came from the sea,",
               "snow": f"I saw the {name} in the snow,",
               "star": f"The {name} can see a star,", "rain": f"I saw the {name} in the rain,"}
    seconds = {"way": "it always finds a way.", "light": "it gave a little light.",
               "me": "it sat there next to me.", "high": "the clouds were up so high.",
               "run": "I saw the children run.", "free": "so happy and so free.",
               "slow": "the hours were soft and slow.", "far": "it shines from very far.",
               "again": "it will come back again."}
    text = "\n".join((endings[a], seconds[b], endings[c], seconds[d]))
    user = vary(rng, rng.choice((f"Write a poem about {article(name)}.",
                                 f"Write a short poem about {article(name)}.",
                                 f"Can you write a rhyme about {article(name)}?")))
    return Turn(user, text, f"poem|{user}", f"A short poem about {article(name)}, with rhymes.",
                "any", category="story")
