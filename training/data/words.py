"""Word lists of the generators: names, places, simple facts. All written for this project."""


def _list(text):
    return text.split()


def _pairs(text, sep=":"):
    return [tuple(p.strip() for p in item.split(sep)) for item in text.split(";") if item.strip()]


GIRLS = _list("""Anna Mia Lily Emma Lucy Rose Sara Nina Clara Ella Ruby Zoe Maya Eva Ivy Grace Alice
Julia Nora Hannah Olivia Sophie Lena Amy Kate Ada Bella Daisy Iris Jane Laura Maria Molly Tara Vera
Wendy Helen Carla Diana Elena Fiona Greta Hazel Irene Joan Karen Linda Megan Nancy Paula Rita
Susan Tina Ursula Violet Yara Amelia Betty Cora Doris""")
BOYS = _list("""Tom Ben Max Sam Leo Jack Tim Finn Noah Adam Oscar Paul Peter Daniel Lucas Henry Oliver
Felix Hugo Mark David Simon Kevin Eric Frank George Harry Ian James Karl Liam Martin Nick Omar Pedro
Ralph Steve Theo Victor Walter Alan Boris Carl Dean Edgar Fred Gary Hans Ivan Joe Kurt Louis
Mike Neil Otto Philip Robert Scott Tony Vincent""")
NAMES = GIRLS + BOYS
SURNAMES = _list("""Smith Brown Miller Wilson Taylor Clark Lewis Walker Hall Young King Wright Hill Green
Baker Nelson Carter Parker Evans Turner Collins Stewart Morris Cook Rogers Reed Morgan Cooper Bell
Ward Cox Gray Watson Brooks Kelly Price Wood Ross Long Hughes Foster Butler Fisher Ford Stone
Marsh Lane Shaw Hunt Black Palmer Holmes Dixon Webb Grant Mason Knight""")

# country: capital: continent: language
COUNTRIES = _pairs("", ":") or [tuple(x.strip() for x in line.split(":")) for line in """
France:Paris:Europe:French
Germany:Berlin:Europe:German
Italy:Rome:Europe:Italian
Spain:Madrid:Europe:Spanish
Portugal:Lisbon:Europe:Portuguese
England:London:Europe:English
Ireland:Dublin:Europe:English
Scotland:Edinburgh:Europe:English
Netherlands:Amsterdam:Europe:Dutch
Belgium:Brussels:Europe:Dutch
Austria:Vienna:Europe:German
Switzerland:Bern:Europe:German
Poland:Warsaw:Europe:Polish
Greece:Athens:Europe:Greek
Sweden:Stockholm:Europe:Swedish
Norway:Oslo:Europe:Norwegian
Denmark:Copenhagen:Europe:Danish
Finland:Helsinki:Europe:Finnish
Iceland:Reykjavik:Europe:Icelandic
Russia:Moscow:Europe:Russian
Ukraine:Kyiv:Europe:Ukrainian
Hungary:Budapest:Europe:Hungarian
Romania:Bucharest:Europe:Romanian
Bulgaria:Sofia:Europe:Bulgarian
Croatia:Zagreb:Europe:Croatian
Serbia:Belgrade:Europe:Serbian
Turkey:Ankara:Asia:Turkish
China:Beijing:Asia:Chinese
Japan:Tokyo:Asia:Japanese
India:New Delhi:Asia:Hindi
Thailand:Bangkok:Asia:Thai
Vietnam:Hanoi:Asia:Vietnamese
Indonesia:Jakarta:Asia:Indonesian
South Korea:Seoul:Asia:Korean
Mongolia:Ulaanbaatar:Asia:Mongolian
Nepal:Kathmandu:Asia:Nepali
Iran:Tehran:Asia:Persian
Iraq:Baghdad:Asia:Arabic
Israel:Jerusalem:Asia:Hebrew
Egypt:Cairo:Africa:Arabic
Morocco:Rabat:Africa:Arabic
Kenya:Nairobi:Africa:Swahili
Nigeria:Abuja:Africa:English
Ghana:Accra:Africa:English
Ethiopia:Addis Ababa:Africa:Amharic
Tunisia:Tunis:Africa:Arabic
Canada:Ottawa:North America:English
Mexico:Mexico City:North America:Spanish
Cuba:Havana:North America:Spanish
the United States:Washington:North America:English
Brazil:Brasilia:South America:Portuguese
Argentina:Buenos Aires:South America:Spanish
Chile:Santiago:South America:Spanish
Peru:Lima:South America:Spanish
Colombia:Bogota:South America:Spanish
Uruguay:Montevideo:South America:Spanish
Australia:Canberra:Oceania:English
New Zealand:Wellington:Oceania:English
""".strip().splitlines()]
CITIES = [c[1] for c in COUNTRIES] + _list("""Boston Chicago Hamburg Munich Lyon Milan Naples Venice
Porto Seville Geneva Zurich Krakow Prague Osaka Kyoto Shanghai Mumbai Sydney Perth Toronto Vancouver
Denver Dallas Seattle Miami Houston Phoenix Leeds Bristol Oxford York Bath Cork Glasgow Malmo""")

COLORS = _list("red blue green yellow black white brown pink purple orange gray silver golden")
SIZES = _list("big small little tiny huge large tall short")
FEELINGS = _list("happy sad tired brave shy proud curious kind gentle calm hungry lonely clever quiet")
DAYS = _list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _list("""January February March April May June July August September October November
December""")
NUMBERS = _list("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen twenty""")
SEASONS = _list("spring summer autumn winter")
COMMON = _list("""apple river stone bread cloud garden window table candle forest bridge paper flower
mountain silver winter summer morning evening button pocket basket bottle butter camera carpet castle
circle corner cotton dinner doctor dragon engine farmer father finger flag floor fruit glass grass
green hammer heart honey horse house island jacket kitchen ladder lake lamp leaf lemon letter light lion
market melon milk mirror monkey moon mother mouse music needle night north ocean onion orange owl paint
palm pencil pepper piano pillow pilot planet plate pond potato pumpkin queen rabbit rain ring road robot
rocket roof rope rose salt sand school shadow sheep ship shoe shell sky smile snow soap song soup south
spoon square star storm story street sugar sun sword teacher tiger tower train tree turtle valley violin
wagon wall water wave wheel whale wind wing wolf wood yellow zebra arrow anchor autumn badge barrel beach
bell bird blanket board boat bone book brick brush bucket cabin cake canoe carrot chain chair cherry clay
clock coat coin compass copper crown cup deer desk dish door drum duck eagle ear earth egg elbow feather
fence field fire fish fog fork fox frog gate ghost giant goat gold goose grape guitar hat hill hook ice
ink iron jar jewel key king kite knife""")
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
FOODS = _list("""bread cheese soup rice pasta salad apples pears grapes cake cookies honey eggs fish
pizza potatoes carrots beans tomatoes milk butter bananas oranges lemons cherries pancakes""")
ITEMS = _list("""apples books pencils coins stamps marbles cards shells eggs cookies flowers balls cups
stickers oranges pears stones buttons toys boxes bottles candles tickets letters plums""")

OPPOSITES = _pairs("""hot:cold; big:small; up:down; day:night; happy:sad; fast:slow; light:dark;
open:closed; old:young; new:old; high:low; long:short; wet:dry; hard:soft; rich:poor; full:empty;
clean:dirty; early:late; strong:weak; left:right; good:bad; near:far; loud:quiet; thick:thin; wide:narrow;
true:false; first:last; inside:outside; heavy:light; easy:difficult; sweet:sour; brave:afraid;
sharp:blunt; deep:shallow; always:never; win:lose; begin:end; buy:sell; push:pull; give:take;
love:hate; come:go; laugh:cry; remember:forget; north:south; east:west; summer:winter; friend:enemy;
question:answer; arrive:leave; find:lose; sit:stand; sleep:wake; smooth:rough; tall:short""")
# English: French: Spanish: German
TRANSLATIONS = _pairs("""hello:bonjour:hola:hallo; goodbye:au revoir:adios:auf Wiedersehen;
thank you:merci:gracias:danke; yes:oui:si:ja; no:non:no:nein; please:s'il vous plait:por favor:bitte;
water:eau:agua:Wasser; bread:pain:pan:Brot; milk:lait:leche:Milch; house:maison:casa:Haus;
cat:chat:gato:Katze; dog:chien:perro:Hund; book:livre:libro:Buch; sun:soleil:sol:Sonne;
moon:lune:luna:Mond; day:jour:dia:Tag; night:nuit:noche:Nacht; friend:ami:amigo:Freund;
love:amour:amor:Liebe; tree:arbre:arbol:Baum; flower:fleur:flor:Blume; bird:oiseau:pajaro:Vogel;
fish:poisson:pez:Fisch; horse:cheval:caballo:Pferd; red:rouge:rojo:rot; blue:bleu:azul:blau;
green:vert:verde:gruen; white:blanc:blanco:weiss; black:noir:negro:schwarz; one:un:uno:eins;
two:deux:dos:zwei; three:trois:tres:drei; four:quatre:cuatro:vier; five:cinq:cinco:fuenf;
apple:pomme:manzana:Apfel; school:ecole:escuela:Schule; mother:mere:madre:Mutter;
father:pere:padre:Vater; child:enfant:nino:Kind; city:ville:ciudad:Stadt; street:rue:calle:Strasse;
good morning:bonjour:buenos dias:guten Morgen; good night:bonne nuit:buenas noches:gute Nacht;
winter:hiver:invierno:Winter; summer:ete:verano:Sommer; fire:feu:fuego:Feuer; bed:lit:cama:Bett;
door:porte:puerta:Tuer; window:fenetre:ventana:Fenster; table:table:mesa:Tisch;
chair:chaise:silla:Stuhl; car:voiture:coche:Auto; train:train:tren:Zug; cheese:fromage:queso:Kaese;
egg:oeuf:huevo:Ei; rain:pluie:lluvia:Regen; snow:neige:nieve:Schnee; hand:main:mano:Hand""")
SOUNDS = _pairs("""dog:barks; cat:meows; cow:moos; duck:quacks; sheep:bleats; lion:roars; horse:neighs;
pig:oinks; frog:croaks; owl:hoots; bee:buzzes; snake:hisses; rooster:crows; wolf:howls; mouse:squeaks;
bird:sings; donkey:brays; crow:caws""")
YOUNG = _pairs("""dog:puppy; cat:kitten; cow:calf; sheep:lamb; horse:foal; duck:duckling; bear:cub;
goat:kid; chicken:chick; pig:piglet; frog:tadpole; deer:fawn; goose:gosling; swan:cygnet; lion:cub;
kangaroo:joey; owl:owlet; seal:pup""")
PLURALS = _pairs("""mouse:mice; child:children; foot:feet; tooth:teeth; man:men; woman:women; goose:geese;
leaf:leaves; wolf:wolves; knife:knives; baby:babies; city:cities; box:boxes; fish:fish; sheep:sheep;
book:books; tree:trees; dish:dishes; party:parties; bus:buses; potato:potatoes; story:stories;
life:lives; person:people; ox:oxen; berry:berries; bird:birds; match:matches""")
PAST = _pairs("""go:went; eat:ate; see:saw; run:ran; take:took; give:gave; come:came; make:made; know:knew;
think:thought; find:found; say:said; tell:told; write:wrote; read:read; sing:sang; swim:swam; drink:drank;
sleep:slept; fly:flew; buy:bought; bring:brought; teach:taught; catch:caught; break:broke; speak:spoke;
play:played; walk:walked; jump:jumped; help:helped; look:looked; open:opened; begin:began; fall:fell""")
