"""puna's side of the training comparisons: preparing data, writing a recipe, running it."""

import json
import pathlib
import statistics
import subprocess

from measure import watched

WARM_UP_STEPS = 2


# One book in one page, its contents, and what stands for a missing page.
NO_CHAPTERS = ("print.html", "toc.html", "404.html")


def rust_books(docs=None):
    """Every chapter of the books in Rust's documentation; the toolchain's own if no folder is given."""
    if docs is None:
        root = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True)
        docs = pathlib.Path(root.stdout.strip()) / "share/doc/rust/html"
    books = sorted(page.parent for page in docs.glob("*/print.html"))
    chapters = [page for book in books for page in sorted(book.rglob("*.html")) if page.name not in NO_CHAPTERS]
    if not chapters:
        raise FileNotFoundError(f"no books (*/print.html) under {docs}: is the documentation installed?")
    return chapters


def text_options(parser):
    parser.add_argument("--text", type=pathlib.Path, nargs="+", default=[], metavar="PATH",
                        help="files or folders to train on")
    parser.add_argument("--docs", type=pathlib.Path, metavar="DIR",
                        help="HTML documentation of Rust, whose books are trained on, too (default: the toolchain's)")


def texts(args):
    return [*args.text, *rust_books(args.docs)]


def prepare(puna, sources, out, tokenizer, *more):
    """Token shards in a folder; what is there already is left alone."""
    if not (out / "manifest.json").exists():
        command = [puna, "data", "prepare", *sources, "-o", out, "--tokenizer", tokenizer, *more]
        subprocess.run(list(map(str, command)), check=True)
    return out


def shards(prepared, split="train"):
    """The files of a split, in the manifest's order."""
    manifest = json.loads((prepared / "manifest.json").read_text())
    if any(source.get("weight") for source in manifest["sources"]):
        raise ValueError(f"{prepared} mixes sources by weight: its rows do not follow the files' order")
    if not manifest[split]:
        raise ValueError(f"{prepared} has no {split} split")
    return [prepared / shard["file"] for shard in manifest[split]]


def recipe(model, train, output, settings, *, validation=None, recompute="none"):
    """The sections of a recipe that does what train_torch.py does with the same settings."""
    data = dict(train=str(train), sequence_length=settings.length, shuffle=False, document_mask=False)
    if validation:
        data["validation"] = str(validation)
    return {
        "": dict(task="pretrain", output=str(output), seed=1),
        "model": {"from": str(model)},
        "data": data,
        "train": dict(
            steps=settings.steps, batch_sequences=settings.batch, precision=settings.precision,
            micro_batch=settings.micro_batch or settings.batch, recompute=recompute,
        ),
        "optimizer": dict(name="adamw", lr=settings.lr, betas=[0.9, 0.95], eps=1e-8,
                          weight_decay=settings.weight_decay, clip=settings.clip),
        "schedule": dict(name="cosine", warmup_steps=settings.warmup,
                         final_lr_fraction=settings.final_lr_fraction),
        "checkpoint": dict(every_steps=0),
        "log": dict(validate_every_steps=settings.steps if validation else 0),
    }


def as_toml(sections):
    lines = []
    for name, entries in sections.items():
        lines += [f"\n[{name}]"] * bool(name)
        # What JSON writes of these types is TOML, too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
    return "\n".join(lines) + "\n"


def metrics(output):
    with open(output / "metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def train(puna, sections, threads):
    """Runs a recipe in a fresh output folder; what happened, in train_torch.py's terms."""
    output = pathlib.Path(sections[""]["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_suffix(".toml")
    path.write_text(as_toml(sections))
    process = watched([puna, "train", path, "-t", threads])
    lines = metrics(output)
    steps = [line for line in lines if "loss" in line]
    rates = [step["tokens_per_second"] for step in steps[WARM_UP_STEPS:]]
    settings = sections["train"]
    tokens = settings["batch_sequences"] * sections["data"]["sequence_length"]
    # A process cannot have taken less time than its steps.
    if sum(tokens / step["tokens_per_second"] for step in steps) > 1.05 * process["seconds"]:
        raise RuntimeError(f"{output}: the steps' rates do not fit the time that the process took")
    return dict(
        precision=settings["precision"], threads=threads,
        tokens_per_second=dict(median=statistics.median(rates), min=min(rates), max=max(rates)),
        device_bytes=max((step.get("device_bytes") or 0 for step in steps), default=0),
        peak_rss_bytes=process["peak_rss_bytes"], others=process["others"], lines=lines,
        losses=[step["loss"] for step in steps], learning_rates=[step["lr"] for step in steps],
    )
