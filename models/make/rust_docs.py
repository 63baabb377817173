"""The training data of the embedded model, from the documentation that comes with Rust.

    python3 models/make/rust_docs.py "$(rustc --print sysroot)/share/doc/rust/html" rust-docs

writes into the folder rust-docs
  text.jsonl       {"text", "source"}: pages of the books and of the standard library, as Markdown,
                   without navigation, indexes, translations, vendor intrinsics and what every page
                   repeats; and the documentation comments of the crates in Cargo.lock, one version
                   of each, whose licence is permissive, as cargo fetched them
  questions.jsonl  {"messages"}: questions and answers made from the same pages, and small talk

Needs Python alone. The documentation is MIT or Apache-2.0, as Rust is.
"""

import json
import os
import random
import re
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

BOOKS = [
    "book", "reference", "rust-by-example", "nomicon", "cargo", "edition-guide", "embedded-book",
    "error_codes", "rustc", "rustdoc", "unstable-book", "style-guide", "clippy",
]
CRATES = ["std", "alloc", "core", "proc_macro", "test"]
# Thousands of pages of vendor intrinsics, indexes, and whole books once more.
LEFT_OUT = re.compile(r"(^|/)(arch|core_arch|simd|all\.html|print\.html|index-\d|src|toc\.html)")
SKIPPED_TAGS = {"script", "style", "nav", "button", "svg", "form", "select", "head", "footer"}
SKIPPED_CLASSES = {
    "anchor", "since", "src", "rightside", "out-of-band", "tooltip", "sidebar", "nav-wrapper",
    "menu-title", "buttons", "rustdoc-breadcrumbs", "src-content", "hideme", "boring",
}
# What follows repeats in every page.
END_IDS = {"trait-implementations", "synthetic-implementations", "blanket-implementations",
           "implementors", "foreign-impls"}
VOID = {"br", "img", "hr", "meta", "link", "input", "wbr", "col", "source"}
BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "li", "section", "dt", "dd", "td", "tr",
          "div", "summary", "blockquote"}


class Page(HTMLParser):
    """Blocks of a page: (kind, id, text)."""

    def __init__(self):
        super().__init__()
        self.blocks, self.stack, self.skip = [], [], 0
        self.main, self.pre, self.ended = 0, 0, False
        self.text, self.kind, self.id = [], "p", ""

    def close_block(self):
        text = "".join(self.text)
        if self.kind != "pre":
            text = re.sub(r"\s+", " ", text)
        text = text.strip("\n ") if self.kind == "pre" else text.strip()
        if text:
            self.blocks.append((self.kind, self.id, text))
            self.id = ""
        self.text = []

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            self.text.append("\n")
        if tag in VOID:
            return
        attrs = dict(attrs)
        classes = set((attrs.get("class") or "").split())
        skipped = tag in SKIPPED_TAGS or bool(classes & SKIPPED_CLASSES)
        if attrs.get("id") in END_IDS:
            self.close_block()
            self.ended = True
        is_main = tag == "main"
        self.stack.append((tag, skipped, is_main))
        self.skip += skipped
        self.main += is_main
        if tag in BLOCKS and not (self.pre and tag != "pre"):
            self.close_block()
            header = "code-header" in classes
            if tag == "pre":
                self.pre += 1
                self.kind = "pre"
            elif header:
                self.kind = "item"
            elif tag in ("section", "div", "summary", "td", "tr", "dt", "dd", "blockquote"):
                self.kind = "p"
            else:
                self.kind = tag
            if attrs.get("id"):
                self.id = attrs["id"]
        if tag == "code" and not self.pre and self.kind != "item" and not self.skip:
            self.text.append("`")

    def handle_endtag(self, tag):
        if tag in VOID or not any(open_tag == tag for open_tag, _, _ in self.stack):
            return
        if tag == "code" and not self.pre and self.kind != "item" and not self.skip:
            self.text.append("`")
        if tag in BLOCKS and not (self.pre and tag != "pre"):
            self.close_block()
            if tag == "pre":
                self.pre -= 1
            self.kind = "p"
        while self.stack:
            open_tag, skipped, is_main = self.stack.pop()
            self.skip -= skipped
            self.main -= is_main
            if open_tag == tag:
                break

    def handle_data(self, data):
        if self.main and not self.skip and not self.ended:
            self.text.append(data)


NOISE = re.compile(r"^(Expand description|Source|Read more|Copy item path|§|Since .*|\W*)$")


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8", errors="replace"))
    page.close_block()
    blocks = []
    for kind, ident, text in page.blocks:
        text = text.replace("\u00a7", "").replace("\u00a0", " ").replace("``", "").strip("\n ")
        text = text.replace("\U0001f52c", "").replace("\u200b", "")
        if not NOISE.match(text):
            blocks.append((kind, ident, text))
    return blocks


def markdown(blocks):
    out = []
    for kind, _, text in blocks:
        if kind[0] == "h" and kind[1:].isdigit():
            out.append("#" * int(kind[1:]) + " " + text)
        elif kind == "pre":
            out.append("```rust\n" + text + "\n```")
        elif kind == "item":
            out.append("`" + text + "`")
        elif kind == "li":
            out.append("- " + text)
        else:
            out.append(text)
    text = ""
    for before, block in zip([""] + out, out):
        tight = before.startswith("- ") and block.startswith("- ")
        text += ("\n" if tight else "\n\n") + block
    return text.strip()


def sentence(text):
    """The first sentence or two, of at most 50 words."""
    text = text.strip()
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text)
    out = parts[0]
    if len(out.split()) < 12 and len(parts) > 1:
        out += " " + parts[1]
    if len(out.split()) > 50 or out[-1:] not in ".!?":
        return None
    if re.match(r"(See |This is |Note|For example|Like |Same as|Warning|Available on|Deprecated)", out):
        return None
    return out


def lower_first(text):
    word = text.split(" ")[0]
    return text[0].lower() + text[1:] if word.isalpha() and not word.isupper() else text


VERB = re.compile(r"^[A-Z][a-z]+s\b")


def api_pairs(name, blocks, rng):
    """Questions about a page of the standard library and its methods."""
    pairs = []
    first = next((t for k, _, t in blocks[1:8] if k == "p" and sentence(t)), None)
    kind = blocks[0][2].split(" ")[0].lower() if blocks else ""
    plain = name.split("::")[-1]
    if first and kind in ("struct", "enum", "trait", "macro", "module", "function", "primitive",
                          "keyword", "type", "union", "constant"):
        said = sentence(first)
        asked = rng.choice([f"What is `{plain}`?", f"What is `{name}`?", f"Explain `{plain}`.",
                            f"What is {plain} in Rust?", f"Tell me about `{plain}`."])
        if kind == "function":
            asked = rng.choice([f"What does `{name}` do?", f"What does `{plain}` do?"])
        if VERB.match(said):
            said = f"`{plain}` {lower_first(said)}"
        else:
            said = f"`{name}` is a {kind}: {lower_first(said)}"
        pairs.append((asked, said))
    for i, (block_kind, _, header) in enumerate(blocks):
        if block_kind != "item":
            continue
        found = re.search(r"\bfn ([a-z_0-9]+)", header)
        if not found:
            continue
        method = f"{plain}::{found.group(1)}"
        said, code = None, None
        for next_kind, _, text in blocks[i + 1:i + 8]:
            if next_kind == "item":
                break
            if next_kind == "p" and said is None:
                said = sentence(text)
                if said is None:
                    break
            elif next_kind == "pre" and said and code is None and len(text) < 500:
                code = text
        if not said or not VERB.match(said):
            continue
        what = lower_first(said)
        roll = rng.random()
        if code and roll < 0.35:
            asked = rng.choice([f"Show me an example of `{method}`.", f"How do I use `{method}`?",
                                f"Give me an example of {method}."])
            answer = f"`{method}` {what}\n\n```rust\n{code}\n```"
        elif roll < 0.45 and len(header) < 160:
            asked = rng.choice([f"What is the signature of `{method}`?",
                                f"How is `{method}` declared?"])
            answer = f"```rust\n{header}\n```\n\nIt {what}"
        else:
            asked = rng.choice([f"What does `{method}` do?", f"What does {method} do?",
                                f"Explain `{method}`.", f"What is `{method}` for?"])
            answer = f"`{method}` {what}"
        pairs.append((asked, answer))
    return pairs


def book_pairs(book, blocks, rng):
    """Questions about what headings of the books announce."""
    pairs = []
    for i, (kind, _, heading) in enumerate(blocks):
        if not (kind[0] == "h" and kind[1:].isdigit()) or len(heading.split()) > 8:
            continue
        paragraphs, code = [], None
        for next_kind, _, text in blocks[i + 1:i + 6]:
            if next_kind == "p" and len(paragraphs) < 1:
                paragraphs.append(text)
            elif next_kind == "pre" and paragraphs and code is None and len(text) < 400:
                code = text
            elif next_kind[0] == "h":
                break
        if not paragraphs or not 8 <= len(paragraphs[0].split()) <= 90:
            continue
        if paragraphs[0][-1] not in ".!?:":
            continue
        if paragraphs[0].endswith(":") and not code:
            continue
        answer = paragraphs[0]
        if code and (answer.endswith(":") or rng.random() < 0.3):
            answer += f"\n\n```rust\n{code}\n```"
        topic = re.sub(r"^[\d. ]+", "", heading).strip()
        if book == "error_codes" or re.match(r"^Error code E\d+", heading):
            code_name = re.search(r"E\d{4}", heading)
            if code_name:
                asked = rng.choice([f"What does error {code_name.group()} mean?",
                                    f"Explain {code_name.group()}.",
                                    f"Why does the compiler report {code_name.group()}?"])
                pairs.append((asked, answer))
            continue
        if not topic or re.match(r"(Summary|Example|Note|Syntax|Description|Details)", topic):
            continue
        asked = rng.choice([f"Tell me about this: {topic}", f"Explain: {topic}",
                            f"What can you say about \u201c{topic}\u201d?", f"{topic}?"])
        pairs.append((asked, answer))
    return pairs


SPANISH = re.compile(r"\b(para|funci\u00f3n|podemos|tambi\u00e9n)\b.*\b(que|una|los)\b")
PERMISSIVE = ("MIT", "Apache-2.0", "BSD", "Unlicense", "Zlib", "ISC", "CC0")


def crates(lock):
    """(name, folder) of the crates in a Cargo.lock that cargo has fetched, the newest version."""
    newest = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        if "source" in package:
            version = tuple(int(n) for n in re.findall(r"\d+", package["version"])[:3])
            newest[package["name"]] = max(newest.get(package["name"], ((0,), "")),
                                          (version, package["version"]))
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    for name, (_, version) in sorted(newest.items()):
        for folder in (home / "registry/src").glob(f"*/{name}-{version}"):
            manifest = tomllib.loads((folder / "Cargo.toml").read_text(encoding="utf-8"))
            licence = str(manifest["package"].get("license", ""))
            if any(word in licence for word in PERMISSIVE):
                yield name, folder


def comments(path):
    """Documentation comments of a source file, each behind the line that it is about."""
    out, block = [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = line.strip()
        found = re.match(r"//[/!](?!/)\s?(.*)", line)
        if found:
            block.append(re.sub(r"^```$", "```", found.group(1).rstrip()))
            continue
        if block and not line.startswith("#["):
            text = "\n".join(block).strip()
            if re.match(r"pub[ (]", line):
                text = f"`{line.rstrip(' {;')}`\n\n{text}"
            out.append(text)
            block = []
    if block:
        out.append("\n".join(block).strip())
    return "\n\n".join(text for text in out if text)


def foreign(text):
    """Whether a text is mostly not in Latin letters: translations of the books."""
    letters = [c for c in text if c.isalpha()]
    return sum(c > "\u024f" for c in letters) > 0.05 * len(letters)


def main():
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    talk = json.loads((Path(__file__).parent / "small_talk.json").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    pairs, seen, pages = [], set(), 0
    with open(out / "text.jsonl", "w", encoding="utf-8") as file:
        for source in BOOKS + CRATES:
            for path in sorted((root / source).rglob("*.html")):
                relative = path.relative_to(root).as_posix()
                if LEFT_OUT.search(relative):
                    continue
                inside = relative.split("/", 1)[1]
                if source in ("alloc", "core") and (root / "std" / inside).exists():
                    continue  # std shows it again
                blocks = read(path)
                text = markdown(blocks)
                if len(text) < 200 or text in seen or foreign(text) or SPANISH.search(text):
                    continue
                seen.add(text)
                pages += 1
                line = {"text": text, "source": source}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                if source in CRATES:
                    parts = relative.removesuffix(".html").split("/")
                    name = "::".join(p for p in parts[:-1]) + "::" + parts[-1].split(".")[-1]
                    if source in ("std", "alloc", "core"):
                        name = "std" + name[len(source):]
                    pairs += api_pairs(name.removesuffix("::index"), blocks, rng)
                else:
                    pairs += book_pairs(source, blocks, rng)
        for name, folder in crates(Path(__file__).parents[2] / "Cargo.lock"):
            for path in sorted(folder.rglob("*.rs")) + sorted(folder.glob("README.md")):
                text = comments(path) if path.suffix == ".rs" else path.read_text(
                    encoding="utf-8", errors="replace")
                if len(text) < 400 or text in seen or foreign(text):
                    continue
                seen.add(text)
                pages += 1
                line = {"text": text, "source": "crates"}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    unique = {}
    for asked, answer in pairs:
        unique.setdefault(asked, answer)
    pairs = list(unique.items())
    rng.shuffle(pairs)
    conversations = []
    while pairs:
        turns = [pairs.pop() for _ in range(min(len(pairs), rng.choice([1, 1, 1, 2, 3])))]
        if rng.random() < 0.08:
            turns.insert(0, pick(talk, rng))
        conversations.append(turns)
    # Small talk is little beside the documentation: all ways to ask, several times.
    for _ in range(6):
        for entry in talk:
            for asked in entry["asked"]:
                conversations.append([(asked, rng.choice(entry["answers"]))])
    rng.shuffle(conversations)
    with open(out / "questions.jsonl", "w", encoding="utf-8") as file:
        for turns in conversations:
            messages = []
            for asked, answer in turns:
                messages.append({"role": "user", "content": asked})
                messages.append({"role": "assistant", "content": answer})
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    print(f"{pages} pages, {len(unique)} questions, {len(conversations)} conversations")


def pick(talk, rng):
    entry = rng.choice(talk)
    return rng.choice(entry["asked"]), rng.choice(entry["answers"])


if __name__ == "__main__":
    main()
