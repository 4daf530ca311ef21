"""Numbers and texts as the page writes them."""

from __future__ import annotations

from .scores import ScoreRow


def score(row: ScoreRow) -> str:
    """A score: shares in per cent, their differences in points, others with three decimals."""
    if row.is_share:
        return f"{100 * row.score:+.1f} points" if row.is_difference else f"{100 * row.score:.1f} %"
    return f"{row.score:+.3f}" if row.is_difference else f"{row.score:.3f}"


def interval(row: ScoreRow) -> str:
    """The ends of a score's 95 % interval, "" if it has none."""
    if row.low is None or row.high is None:
        return ""
    sign = "+" if row.is_difference else ""
    if row.is_share:
        return f"{100 * row.low:{sign}.1f} to {100 * row.high:{sign}.1f}{'' if row.is_difference else ' %'}"
    return f"{row.low:{sign}.3f} to {row.high:{sign}.3f}"


def cut(text: str, max_chars: int) -> str:
    """The text, ended by an ellipsis when it is longer than `max_chars`."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def spaced(text: str) -> str:
    """A token's text with its spaces and line ends made visible."""
    return text.replace(" ", "·").replace("\n", "⏎")


def compact(number: float) -> str:
    """A count in at most five characters or so: 999, 12,345, 1.23 M."""
    for size, suffix in ((1e9, " G"), (1e6, " M")):
        if abs(number) >= size:
            return f"{number / size:.3g}{suffix}"
    return grouped(number)


def grouped(number: float) -> str:
    """A whole number with its thousands marked."""
    return f"{number:,.0f}"


def figure(number: float) -> str:
    """A figure of a stage: whole numbers in full, others with four digits that count."""
    return grouped(number) if float(number).is_integer() else f"{number:.4g}"
