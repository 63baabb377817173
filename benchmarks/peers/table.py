"""Rows of run.py as text and as Markdown."""

import statistics

HEADER = ["model", "test", "puna", "of limit", "peer", "of limit", "ratio", "from - to", "peak RSS, MB"]


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def share(row, limits, side):
    """Of the measured limit, where the work of a token is known."""
    work = row.get("work", (None, None))[side]
    if work is None:
        return ""
    rate = statistics.median(row["theirs" if side else "ours"])
    return f"{100 * work * rate / limits[row['limit']]:.0f} % {row['limit']}"


def cells(row, limits):
    ours, theirs = (statistics.median(row[side]) for side in ("ours", "theirs"))
    low, high = row["ratio_range"]
    rss = " / ".join(f"{side / 1e6:.0f}" for side in row["rss"]) if "rss" in row else ""
    return [
        row["model"], row["test"], f"{number(ours)} {row['unit']}", share(row, limits, 0),
        f"{number(theirs)} {row['unit']}", share(row, limits, 1),
        f"{row['ratio']:.2f}", f"{low:.2f} - {high:.2f}", rss,
    ]


def describe(limits):
    parts = [f"reads {limits['read'] / 1e9:.1f} GB/s"]
    parts += [f"{key} {value / 1e9:.0f} GOP/s" for key, value in limits.items() if key != "read"]
    return "Measured limits: " + ", ".join(parts) + "."


def as_text(rows, limits, header=True):
    widths = [43, 26, 14, 11, 14, 11, 6, 13, 14]
    lines = [HEADER] * header + [cells(row, limits) for row in rows]
    out = "".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths)).rstrip() + "\n" for line in lines)
    return f"{describe(limits)}\n{out}" if header else out


def as_markdown(rows, limits, title, rounds):
    lines = [
        f"# {title}", "",
        f"`benchmarks/peers/run.py`: puna and llama.cpp (the peer, unless the row names another) alternately, {rounds} rounds. Medians; the ratio is the "
        "median over neighbouring runs: above 1 puna is faster in tok/s rows, slower in rows of seconds. What a "
        "share of a limit means is in benchmarks/README.md.", "",
        describe(limits), "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
    ]
    lines += ["| " + " | ".join(cells(row, limits)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
