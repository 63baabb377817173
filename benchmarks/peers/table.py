"""Rows of run.py as text and as Markdown."""

import statistics

HEADER = ["model", "test", "puna", "of limit", "peer", "of limit", "ratio", "from - to", "peak RSS, MB"]


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def share(row, side):
    """Of the limit measured in the same rounds, where the work of a token is known."""
    value = row.get("shares", (None, None))[side]
    return "" if value is None else f"{100 * value:.0f} % {row['limit']}"


def cells(row):
    ours, theirs = (statistics.median(row[side]) for side in ("ours", "theirs"))
    low, high = row["ratio_range"]
    rss = " / ".join(f"{side / 1e6:.0f}" for side in row["rss"]) if "rss" in row else ""
    return [
        row["model"], row["test"], f"{number(ours)} {row['unit']}", share(row, 0),
        f"{number(theirs)} {row['unit']}", share(row, 1),
        f"{row['ratio']:.2f}", f"{low:.2f} - {high:.2f}", rss,
    ]


def describe(limits):
    def span(low, high, digits):
        low, high = f"{low / 1e9:.{digits}f}", f"{high / 1e9:.{digits}f}"
        return low if low == high else f"{low} to {high}"

    parts = [f"reads {span(*limits['read'], 1)} GB/s"]
    parts += [f"{key} {span(*value, 0)} GOP/s" for key, value in limits.items() if key != "read"]
    return "Measured limits, which vary on a shared machine: " + ", ".join(parts) + "."


def as_text(rows, limits, header=True):
    widths = [43, 26, 14, 11, 14, 11, 6, 13, 14]
    lines = [HEADER] * header + [cells(row) for row in rows]
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
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
