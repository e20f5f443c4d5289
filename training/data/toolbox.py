"""The tools that the tool-use generator declares: a catalogue and freely composed ones.

A tool is a dictionary: `function` (the declared schema), `params` and `ask(rng)`, which gives a
request: (sentence, arguments, result, answer).
"""
from base import article, held_out_name, listing, upper_first
from words import CITIES, COLORS, COMMON, COUNTRIES, DAYS, FOODS, ITEMS, MONTHS, NAMES, SURNAMES

# ---- values: each returns (JSON value, text in the request) ----


def city(r):
    v = r.choice(CITIES)
    return v, v


def person(r):
    v = r.choice(NAMES)
    if r.random() < 0.3:
        v += " " + r.choice(SURNAMES)
    return v, v


def word(r):
    v = r.choice(COMMON)
    return v, v


def count(r):
    v = r.randint(1, 20) if r.random() < 0.6 else r.randint(1, 999)
    return v, str(v)


def amount(r):
    v = r.randint(1, 999) if r.random() < 0.6 else r.randint(1, 99) + r.choice((0.5, 0.25, 0.75, 0.1))
    return v, str(v)


def title(r):
    v = " ".join(r.choice(COMMON) for _ in range(r.randint(1, 3)))
    if r.random() < 0.5:
        v = upper_first(v)
    return v, f'"{v}"'


def message(r):
    v = r.choice((f"I will be late", f"See you on {r.choice(DAYS)}", f"Please buy {r.choice(FOODS)}",
                  f"The {r.choice(COMMON)} is ready", f"Call {r.choice(NAMES)} back",
                  f"Meet me at the {r.choice(COMMON)}", f"Happy birthday, {r.choice(NAMES)}!",
                  f"Bring the {r.choice(COMMON)} and the {r.choice(COMMON)}",
                  f"We meet in {r.choice(CITIES)}"))
    return v, f'"{v}"'


def clock(r):
    v = f"{r.randint(0, 23):02d}:{r.choice((0, 15, 30, 45)):02d}"
    return v, v


def day(r):
    v = r.choice(DAYS)
    return v, v


def date(r):
    v = f"20{r.randint(20, 29)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"
    return v, v


def code(r):
    v = r.choice("ABCDEFGHKLMNPRSTXZ") + str(r.randint(10, 9999))
    return v, v


def path(r):
    v = "/" + "/".join(r.choice(COMMON) for _ in range(r.randint(1, 2))) + r.choice(
        (".txt", ".md", ".py", ".json", ".csv"))
    return v, v


def email(r):
    v = f"{r.choice(NAMES).lower()}@{r.choice(COMMON)}.com"
    return v, v


def words_list(r):
    v = r.sample(COMMON, r.randint(2, 4))
    return v, listing(v)


def names_list(r):
    v = r.sample(NAMES, r.randint(2, 3))
    return v, listing(v)


def numbers_list(r):
    v = [r.randint(1, 99) for _ in range(r.randint(2, 5))]
    return v, listing([str(x) for x in v])


def yes_no(r):
    v = r.random() < 0.5
    return v, r.choice(("yes", "true", "on")) if v else r.choice(("no", "false", "off"))


def record(r):
    name, age = r.choice(NAMES), r.randint(5, 90)
    return {"name": name, "age": age}, f"name {name} and age {age}"


def point(r):
    x, y = r.randint(0, 99), r.randint(0, 99)
    return {"x": x, "y": y}, f"x {x} and y {y}"


def sums(r):
    a, b, op = r.randint(1, 9999), r.randint(1, 999), r.choice("+-*/")
    v = f"{a} {op} {b}"
    return v, v


def language(r):
    v = r.choice(("French", "Spanish", "German", "Italian", "Dutch"))
    return v, v


def unit(r):
    v = r.choice(("celsius", "fahrenheit"))
    return v, v


def money(r):
    v = r.choice(("USD", "EUR", "GBP", "JPY", "CHF"))
    return v, v


def color(r):
    v = r.choice(COLORS)
    return v, v


def food(r):
    v = r.choice(FOODS)
    return v, v


def month(r):
    v = r.choice(MONTHS)
    return v, v


def country(r):
    v = upper_first(r.choice(COUNTRIES)[0])
    return v, v


def room(r):
    v = r.choice(("kitchen", "bedroom", "bathroom", "hall", "garage", "office", "garden"))
    return v, v


TYPES = {count: "integer", amount: "number", words_list: "array", names_list: "array",
         numbers_list: "array", yes_no: "boolean", record: "object", point: "object"}


def schema_of(kind, description):
    """JSON schema of one parameter."""
    out = {"type": TYPES.get(kind, "string")}
    if out["type"] == "array":
        out["items"] = {"type": "integer" if kind is numbers_list else "string"}
    if description:
        out["description"] = description
    return out


# Families: (names, descriptions, parameters [(names, kind, description, required)], requests,
# result fields, answers). Requests use {0}, {1}… for values; a request that does not mention an
# optional parameter leaves it out. Answers use {0}… and the result fields by name.
TEMP = ("temperature", lambda r: r.randint(-10, 38))
SKY = ("condition", lambda r: r.choice(("sunny", "cloudy", "rainy", "windy", "snowy", "foggy")))
ID = ("id", lambda r: r.randint(100, 9999))
OK = ("status", lambda r: "ok")
FAMILIES = [
    (("get_weather", "weather", "current_weather", "fetch_weather", "weather_lookup"),
     ("Get the weather for a city.", "Returns the current weather of a city."),
     [(("city", "location", "place", "town"), city, "City name", True),
      (("unit", "units"), unit, "Temperature unit", False)],
     ("What is the weather in {0}?", "How is the weather in {0}?", "Is it raining in {0}?",
      "Tell me the weather in {0} in {1}.", "Weather in {0}?", "How warm is it in {0}?",
      "What is the temperature in {0} in {1}?", "Do I need an umbrella in {0}?"),
     (TEMP, SKY), ("In {0} it is {condition} with {temperature} degrees.",)),
    (("get_time", "current_time", "time_in_city", "world_clock"),
     ("Get the current time in a city.", "Tells the local time of a place."),
     [(("city", "place", "location"), city, "City name", True)],
     ("What time is it in {0}?", "Tell me the time in {0}.", "How late is it in {0}?",
      "Current time in {0}?"),
     (("time", lambda r: clock(r)[0]),), ("It is {time} in {0}.",)),
    (("calculate", "calculator", "evaluate", "compute"),
     ("Evaluate an arithmetic expression.", "Calculates the value of an expression."),
     [(("expression", "expr", "formula"), sums, "The expression", True)],
     ("Calculate {0} with the tool.", "Use the calculator for {0}.", "What is {0}? Use the tool.",
      "Compute {0} with the calculator."),
     (("result", lambda r: r.randint(1, 99999)),), ("The result is {result}.",)),
    (("send_email", "write_email", "mail_send", "email"),
     ("Send an email to a person.", "Sends an email."),
     [(("to", "recipient", "address"), email, "Email address", True),
      (("subject", "title"), title, "Subject line", True),
      (("body", "text", "message"), message, "Text of the email", True)],
     ("Send an email to {0} with the subject {1} and the text {2}.",
      "Write to {0}: subject {1}, text {2}.", "Email {0} with subject {1} and say {2}."),
     (OK, ID), ("I sent the email to {0}.", "Done. The email to {0} is sent.")),
    (("send_message", "send_text", "message_person", "text_message"),
     ("Send a text message to a person.", "Sends a short message."),
     [(("to", "name", "person", "recipient"), person, "Name of the person", True),
      (("text", "message", "content"), message, "The message", True)],
     ("Send {0} a message: {1}", "Tell {0} {1}.", "Write {0} the message {1}.",
      "Text {0} {1}.", "Send the message {1} to {0}."),
     (OK,), ("I sent the message to {0}.", "Done. {0} has the message.")),
    (("set_timer", "start_timer", "timer", "countdown"),
     ("Start a timer.", "Starts a timer for some minutes."),
     [(("minutes", "duration", "length"), count, "Minutes", True),
      (("label", "name"), word, "Name of the timer", False)],
     ("Set a timer for {0} minutes.", "Start a timer of {0} minutes.", "Timer for {0} minutes please.",
      "Set a {0} minute timer called {1}.", "Wake me in {0} minutes."),
     (OK,), ("The timer is set for {0} minutes.",)),
    (("set_alarm", "create_alarm", "alarm", "wake_up"),
     ("Set an alarm for a time.", "Sets an alarm."),
     [(("time", "at"), clock, "Time as HH:MM", True),
      (("day", "weekday"), day, "Day of the week", False)],
     ("Wake me up at {0}.", "Set an alarm for {0}.", "Set an alarm for {0} on {1}.",
      "I need an alarm at {0}.", "Wake me at {0} on {1}."),
     (OK,), ("The alarm is set for {0}.",)),
    (("add_event", "create_event", "calendar_add", "new_appointment"),
     ("Add an event to the calendar.", "Creates a calendar event."),
     [(("title", "name", "event"), title, "Title of the event", True),
      (("date", "day"), date, "Date as YYYY-MM-DD", True),
      (("time", "start"), clock, "Start time", False),
      (("guests", "people"), names_list, "Invited people", False)],
     ("Add {0} to my calendar on {1}.", "Create an event {0} on {1} at {2}.",
      "Put {0} in the calendar for {1} with {3}.", "New event {0} on {1} at {2} with {3}."),
     (ID,), ("I added the event on {1}.", "Done. The event is in your calendar.")),
    (("search_web", "web_search", "search", "find_online"),
     ("Search the web.", "Finds pages on the internet."),
     [(("query", "q", "terms"), word, "What to search for", True),
      (("limit", "max_results", "count"), count, "Number of results", False)],
     ("Search the web for {0}.", "Look up {0} on the internet.", "Find {1} pages about {0}.",
      "Search for {0} online.", "Find {1} results for {0} on the web."),
     (("title", lambda r: f"All about the {r.choice(COMMON)}"),), ("I found this page: {title}.",)),
    (("read_file", "open_file", "get_file", "cat_file"),
     ("Read a file.", "Returns the content of a file."),
     [(("path", "file", "filename"), path, "Path of the file", True)],
     ("Read the file {0}.", "What is in {0}?", "Open {0}.", "Show me {0}.", "Show the file {0}."),
     (("content", lambda r: message(r)[0]),), ("The file {0} says: {content}",)),
    (("write_file", "save_file", "create_file", "put_file"),
     ("Write text to a file.", "Saves a text in a file."),
     [(("path", "file", "filename"), path, "Path of the file", True),
      (("content", "text", "data"), message, "The text", True)],
     ("Write {1} to {0}.", "Save the text {1} in the file {0}.", "Create the file {0} with {1}."),
     (OK,), ("I wrote the file {0}.", "Done. The text is in {0}.")),
    (("delete_file", "remove_file", "rm_file"), ("Delete a file.", "Removes a file."),
     [(("path", "file", "filename"), path, "Path of the file", True)],
     ("Delete the file {0}.", "Remove {0}.", "Delete {0} please."),
     (OK,), ("I deleted {0}.", "Done. {0} is gone.")),
    (("list_files", "list_folder", "ls", "show_folder"),
     ("List the files of a folder.", "Shows what is in a folder."),
     [(("folder", "path", "directory"), word, "Folder name", True)],
     ("Which files are in the folder {0}?", "List the folder {0}.", "Show the files in {0}."),
     (("files", lambda r: [path(r)[0][1:], path(r)[0][1:]]),),
     ("The folder {0} has these files: {files}.",)),
    (("convert_money", "exchange", "convert_currency", "currency"),
     ("Convert money from one currency to another.", "Currency conversion."),
     [(("amount", "value", "sum"), amount, "Amount", True),
      (("from", "source", "from_currency"), money, "Currency code", True),
      (("to", "target", "to_currency"), money, "Currency code", True)],
     ("Convert {0} {1} to {2}.", "How much is {0} {1} in {2}?", "Change {0} {1} into {2}."),
     (("result", lambda r: r.randint(1, 999)),), ("{0} {1} is {result} {2}.",)),
    (("translate", "translate_text", "translator"),
     ("Translate a text.", "Translates text into another language."),
     [(("text", "input"), message, "Text", True),
      (("language", "target", "to"), language, "Target language", True)],
     ("Translate {0} to {1}.", "Use the tool to translate {0} into {1}.", "How do you say {0} in {1}?"),
     (("translation", lambda r: r.choice(("bonjour", "hola", "hallo", "ciao"))),),
     ("The translation is: {translation}.",)),
    (("turn_light", "set_light", "light_switch", "switch_light"),
     ("Turn the light of a room on or off.", "Switches a light."),
     [(("room", "place"), room, "Room", True), (("on", "state", "enabled"), yes_no, "On or off", True)],
     ("Light in the {0}: {1}.", "Set the light in the {0} to {1}.", "Turn the {0} light: {1}."),
     (OK,), ("The light in the {0} is set.",)),
    (("set_temperature", "heating", "set_heating", "thermostat"),
     ("Set the temperature of a room.", "Controls the heating."),
     [(("room", "place"), room, "Room", True), (("degrees", "value", "temperature"), count, "Degrees",
                                                 True)],
     ("Set the {0} to {1} degrees.", "Make the {0} {1} degrees warm.", "Heat the {0} to {1} degrees."),
     (OK,), ("The {0} is set to {1} degrees.",)),
    (("get_user", "find_user", "user_info", "lookup_user"),
     ("Get a user by id.", "Finds a user."),
     [(("id", "user_id", "number"), count, "User id", True)],
     ("Who is user {0}?", "Show me user {0}.", "Find the user with id {0}.", "Get user {0}."),
     (("name", lambda r: person(r)[0]), ("city", lambda r: r.choice(CITIES))),
     ("User {0} is {name} from {city}.",)),
    (("create_user", "add_user", "new_user", "register_user"),
     ("Create a new user.", "Adds a user."),
     [(("user", "data", "person"), record, "Name and age", True),
      (("admin", "is_admin"), yes_no, "Administrator or not", False)],
     ("Create a user with {0}.", "Add a user with {0}, admin {1}.", "Register a user with {0}."),
     (ID,), ("The user has the id {id}.",)),
    (("get_order", "order_status", "track_order", "find_order"),
     ("Get the status of an order.", "Tracks an order."),
     [(("order", "order_id", "code", "id"), code, "Order code", True)],
     ("Where is my order {0}?", "What is the status of order {0}?", "Track the order {0}.",
      "Is order {0} on the way?"),
     (("state", lambda r: r.choice(("on the way", "delivered", "packed", "lost", "waiting"))),),
     ("The order {0} is {state}.",)),
    (("order_food", "buy_food", "food_order", "order_meal"),
     ("Order food.", "Orders a meal for delivery."),
     [(("item", "food", "meal"), food, "Food", True), (("quantity", "count", "amount"), count,
                                                       "How many", True)],
     ("Order {1} portions of {0}.", "I want {1} portions of {0}.", "Get me {1} times {0}."),
     (ID, ("minutes", lambda r: r.randint(10, 60))), ("Your {0} will come in {minutes} minutes.",)),
    (("book_table", "reserve_table", "table_reservation"),
     ("Book a table in a restaurant.", "Reserves a table."),
     [(("name", "guest"), person, "Name of the guest", True), (("people", "guests", "size"), count,
                                                               "Number of people", True),
      (("time", "at"), clock, "Time", True)],
     ("Book a table for {1} people at {2} for {0}.", "Reserve a table at {2} for {1} people, name {0}.",
      "Table for {1} at {2}, the name is {0}."),
     (OK,), ("The table for {1} people is booked at {2}.",)),
    (("find_train", "train_search", "get_train", "train_times"),
     ("Find a train between two cities.", "Train connections."),
     [(("from", "start", "origin"), city, "Start", True), (("to", "destination", "end"), city, "End",
                                                           True),
      (("day", "date"), day, "Day", False)],
     ("Find a train from {0} to {1}.", "When is the next train from {0} to {1}?",
      "Train from {0} to {1} on {2}?", "I want to go from {0} to {1} on {2} by train."),
     (("time", lambda r: clock(r)[0]), ("platform", lambda r: r.randint(1, 20))),
     ("The train to {1} leaves at {time} from platform {platform}.",)),
    (("play_music", "play_song", "start_music", "music"),
     ("Play music.", "Plays a song."),
     [(("song", "title", "name"), title, "Song", True), (("volume", "loudness"), count, "Volume",
                                                         False)],
     ("Play {0}.", "Play the song {0}.", "Play {0} at volume {1}.", "I want to hear {0}."),
     (OK,), ("Now playing {0}.",)),
    (("add_numbers", "sum_list", "total", "sum_numbers"),
     ("Add a list of numbers.", "Sums numbers."),
     [(("numbers", "values", "list"), numbers_list, "The numbers", True)],
     ("Add the numbers {0} with the tool.", "What is the total of {0}? Use the tool.",
      "Sum up {0} with the tool."),
     (("total", lambda r: r.randint(10, 500)),), ("The total is {total}.",)),
    (("add_to_list", "shopping_list", "list_add", "add_items"),
     ("Add items to the shopping list.", "Adds things to a list."),
     [(("items", "things", "entries"), words_list, "Items", True)],
     ("Put {0} on the list.", "Add {0} to my shopping list.", "I need to buy {0}. Put it on the list."),
     (("count", lambda r: r.randint(2, 20)),), ("Done. The list has {count} items.",)),
    (("get_price", "stock_price", "price_of", "lookup_price"),
     ("Get the price of a product.", "Looks up a price."),
     [(("product", "item", "name"), word, "Product", True)],
     ("What does the {0} cost?", "How much is the {0}?", "Price of {0}?", "Find the price of {0}."),
     (("price", lambda r: amount(r)[0]),), ("The {0} costs {price}.",)),
    (("move_robot", "move_to", "go_to", "robot_move"),
     ("Move the robot to a point.", "Drives the robot."),
     [(("point", "target", "position"), point, "Point with x and y", True),
      (("speed", "velocity"), amount, "Speed", False)],
     ("Move the robot to {0}.", "Drive to {0}.", "Send the robot to {0} with speed {1}."),
     (OK,), ("The robot is there.",)),
    (("get_capital", "country_info", "lookup_country", "about_country"),
     ("Get information about a country.", "Country facts."),
     [(("country", "name"), country, "Country", True)],
     ("Look up {0} with the tool.", "Get the facts about {0}.", "Find information on the country {0}."),
     (("people", lambda r: f"{r.randint(1, 99)} million"),), ("{0} has {people} people.",)),
    (("run_command", "shell", "bash", "execute"),
     ("Run a shell command.", "Executes a command."),
     [(("command", "cmd"), lambda r: (lambda v: (v, f"`{v}`"))(
         r.choice(("ls", "cat", "rm", "head", "wc -l", "mkdir")) + " " + r.choice(COMMON)),
       "The command", True)],
     ("Run {0}.", "Execute the command {0}.", "Run the command {0} please."),
     (("output", lambda r: message(r)[0]),), ("The output is: {output}",)),
]

VERBS = ("create add update delete find get list open close start stop check send move copy rename "
         "print show count book cancel order pay sell rent repair clean test build load save mark "
         "lock unlock hide share sort sign").split()
NOUNS = ("ticket task note user item order invoice report project team file folder page photo album "
         "song video room car bike ship box card account payment booking flight hotel meal recipe "
         "product price contract message letter comment event meeting lesson course student book "
         "game player score map route sensor device printer backup server job log key door").split()
PARAMS = [
    ("title", title), ("name", person), ("owner", person), ("city", city), ("date", date),
    ("time", clock), ("day", day), ("month", month), ("count", count), ("priority", count),
    ("price", amount), ("weight", amount), ("size", count), ("level", count), ("code", code),
    ("id", count), ("number", count), ("color", color), ("tags", words_list), ("members", names_list),
    ("values", numbers_list), ("urgent", yes_no), ("public", yes_no), ("active", yes_no),
    ("message", message), ("email", email), ("path", path), ("country", country), ("label", word),
    ("topic", word), ("position", point), ("contact", record), ("language", language),
    ("currency", money), ("room", room), ("author", person), ("category", word), ("limit", count),
    ("year", lambda r: (lambda v: (v, str(v)))(r.randint(1900, 2030))), ("comment", message)]
TYPES[PARAMS[-2][1]] = "integer"
assert ITEMS


def _function(rng, name, description, properties, required):
    function = {"name": name}
    if description:
        function["description"] = description
    schema = {"type": "object", "properties": properties}
    if required and rng.random() < 0.8:
        schema["required"] = required
    function["parameters"] = schema
    return function


def catalogue_tool(rng, index=None, evaluation=False):
    """One tool of the catalogue with randomly chosen names."""
    index = rng.randrange(len(FAMILIES)) if index is None else index
    names, descriptions, params, requests, fields, answers = FAMILIES[index]
    pick = [(rng.choice(ns), kind, about, must) for ns, kind, about, must in params]
    described = rng.random() < 0.7
    properties = {n: schema_of(k, about if described else "") for n, k, about, _ in pick}
    name = rng.choice(names)
    function = _function(rng, name, rng.choice(descriptions), properties,
                         [n for n, _, _, must in pick if must])

    def ask(r):
        request = r.choice(requests)
        values = [kind(r) for _, kind, _, _ in pick]
        used = [i for i in range(len(pick)) if f"{{{i}}}" in request]
        texts = [t for _, t in values]
        arguments = {pick[i][0]: values[i][0] for i in used}
        result = {f: make(r) for f, make in fields}
        shown = {k: listing(v) if isinstance(v, list) else v for k, v in result.items()}
        plain = [v if isinstance(v, str) else t for v, t in values]
        return (request.format(*texts), arguments, result,
                r.choice(answers).format(*plain, **shown))

    return {"function": function, "ask": ask, "group": index}


def composed_tool(rng, verb=None, noun=None, evaluation=False):
    """A tool whose name, description and parameters are put together freely."""
    while True:
        v, n = verb or rng.choice(VERBS), noun or rng.choice(NOUNS)
        style = rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2, 3))
        name = (f"{v}_{n}", f"{n}_{v}", v + upper_first(n), f"{n}.{v}")[style]
        if held_out_name(f"{v} {n}") == evaluation:
            break
        verb = noun = None
    pick = rng.sample(PARAMS, rng.choice((1, 1, 2, 2, 3, 4)))
    an = article(n)
    properties = {p: schema_of(k, f"The {p} of the {n}" if rng.random() < 0.4 else "")
                  for p, k in pick}
    description = rng.choice((f"{upper_first(v)} {an}.", f"{upper_first(v)} the {n}.",
                              f"{upper_first(v)} {n}s.", f"This tool can {v} {an}.", ""))
    function = _function(rng, name, description, properties,
                         [p for p, _ in pick[:rng.randint(1, len(pick))]])

    def ask(r):
        values = [(p, *k(r)) for p, k in pick]
        phrases = [r.choice((f"{p} {t}", f"{p} {t}", f"the {p} {t}")) for p, _, t in values]
        start = r.choice((f"{upper_first(v)} {an} with", f"Please {v} {an} with",
                          f"{upper_first(v)} the {n} with", f"I want to {v} {an} with",
                          f"Can you {v} {an} with", f"{upper_first(v)} {an}:"))
        tail = "?" if start.startswith("Can") else "."
        result = r.choice(({"status": "ok", "id": r.randint(100, 9999)}, {"status": "done"},
                           {"ok": True, "code": code(r)[0]}))
        answer = "Done." if "status" in result and len(result) == 1 else (
            f"Done. The id is {result['id']}." if "id" in result
            else f"Done. The code is {result['code']}.")
        return (f"{start} {listing(phrases)}{tail}", {p: v2 for p, v2, _ in values}, result, answer)

    return {"function": function, "ask": ask, "group": f"{v} {n}", "verb": v, "noun": n}
