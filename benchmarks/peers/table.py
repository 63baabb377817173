"""Rows of the campaigns as text and as Markdown."""

import statistics

HEADER = ["model", "test", "puna", "of limit", "peer", "of limit", "ratio", "from - to", "peak RSS, MB"]


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def share(row, side):
    """Of the limit measured in the same rounds, where the work of a token is known."""
    value = row.get("shares", (None, None))[side]
    limit = row["limits"][side] if "limits" in row else row.get("limit")
    return "" if value is None else f"{100 * value:.0f} % {limit}"


def cells(row):
    ours, theirs = (statistics.median(row[side]) for side in ("ours", "theirs"))
    low, high = row["ratio_range"]
    ours_rss, theirs_rss = row.get("rss", (0, 0))
    rss = f"{ours_rss / 1e6:.0f} / {theirs_rss / 1e6:.0f} = {ours_rss / theirs_rss:.2f}" if theirs_rss else ""
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
    widths = [43, 26, 14, 11, 14, 11, 6, 13, 20]
    lines = [HEADER] * header + [cells(row) for row in rows]
    out = "".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths)).rstrip() + "\n" for line in lines)
    return f"{describe(limits)}\n{out}" if header else out


def as_markdown(rows, limits, title, introduction):
    lines = [
        f"# {title}", "", introduction, "",
        describe(limits), "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
    ]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
