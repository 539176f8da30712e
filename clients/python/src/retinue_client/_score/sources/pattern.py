"""Names with wildcards, `photos/**/*.jpg`, and with braces, `shards-{000..099}.tar`."""

import re
from collections.abc import Iterator

from retinue_client._score.errors import SourceError

_BRACES = re.compile(r"\{([^{}/]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_NAMES = 1_000_000


def has_wildcards(text: str) -> bool:
    """Whether it is a pattern rather than a list of names."""
    return any(char in text for char in "*?[")


def has_braces(text: str) -> bool:
    """Whether it stands for several names or patterns."""
    return any(_alternatives(match[1]) is not None for match in _BRACES.finditer(text))


def split_pattern(text: str) -> tuple[str, str]:
    """The folder that a pattern surely begins with, and the rest: "a/b" and "*/c.jpg" of "a/b/*/c.jpg"."""
    parts = text.split("/")
    fixed = 0
    while fixed < len(parts) - 1 and not has_wildcards(parts[fixed]) and not has_braces(parts[fixed]):
        fixed += 1
    return "/".join(parts[:fixed]) or ("/" if text.startswith("/") else ""), "/".join(parts[fixed:])


def expand(text: str) -> list[str]:
    """The names that braces stand for, in the order in which they are written, as a shell has it.

    Raises:
        SourceError: They are too many.
    """
    names = [""]
    for piece in _pieces(text):
        if len(names) * len(piece) > _MOST_NAMES:
            raise SourceError(f"{text!r} stands for more than {_MOST_NAMES:,} names.")
        names = [name + ending for name in names for ending in piece]
    return names


def matcher(pattern: str) -> "re.Pattern[str]":
    """What a path relative to the pattern's folder must match in full.

    `*` and `?` stop at slashes, `**` as a whole part of the path is any number of folders, and neither takes names that
    begin with a dot, unless the dot is written.

    Raises:
        SourceError: It is no pattern.
    """
    parts = pattern.split("/")
    regex = ""
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if part == "**":
            regex += r"(?:(?!\.)[^/]+/)*" + (r"(?!\.)[^/]+" if last else "")
        else:
            regex += _part_regex(part) + ("" if last else "/")
    try:
        return re.compile(regex, re.DOTALL)
    except re.error as exc:
        raise SourceError(f"{pattern!r} is no pattern: {exc}.") from exc


def _pieces(text: str) -> Iterator[list[str]]:
    end = 0
    for match in _BRACES.finditer(text):
        alternatives = _alternatives(match[1])
        if alternatives is not None:
            yield [text[end : match.start()]]
            yield alternatives
            end = match.end()
    yield [text[end:]]


def _alternatives(inside: str) -> list[str] | None:
    """What stands between braces; None where they mean nothing and are a part of the name."""
    if bounds := _RANGE.fullmatch(inside):
        first, last = int(bounds[1]), int(bounds[2])
        if abs(last - first) >= _MOST_NAMES:
            raise SourceError(f"{{{inside}}} stands for more than {_MOST_NAMES:,} names.")
        width = max(map(len, bounds.groups())) if any(_is_padded(text) for text in bounds.groups()) else 0
        step = 1 if last >= first else -1
        return [str(number).zfill(width) for number in range(first, last + step, step)]
    return inside.split(",") if "," in inside else None


def _is_padded(number: str) -> bool:
    return number != "0" and number.startswith("0")


def _part_regex(part: str) -> str:
    regex = r"(?!\.)" if part[:1] in ("*", "?", "[") else ""
    place = 0
    while place < len(part):
        char = part[place]
        place += 1
        if char == "*":
            regex += "[^/]*"
        elif char == "?":
            regex += "[^/]"
        elif char == "[" and (end := part.find("]", place + 1)) > 0:
            inside = part[place:end].replace("\\", r"\\").replace("[", r"\[")
            regex += f"(?!/)[{'^' + inside[1:] if inside[0] in '!^' else inside}]"
            place = end + 1
        elif char == "{" and (match := _BRACES.match(part, place - 1)) and _alternatives(match[1]):
            regex += "(?:" + "|".join(map(_part_regex_of_braces, _alternatives(match[1]) or ())) + ")"
            place = match.end()
        else:
            regex += re.escape(char)
    return regex


def _part_regex_of_braces(part: str) -> str:
    return _part_regex(part).removeprefix(r"(?!\.)")
