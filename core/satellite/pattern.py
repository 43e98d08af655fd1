"""Key patterns of `cf`: the end of a key, with strftime codes and `{channel}`, as a regular expression."""

import re
from functools import lru_cache

CODES = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%j": r"\d{3}"}


@lru_cache(maxsize=16)
def expression(pattern: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """The pattern as a regular expression with a group for each code and the channel, and the strftime codes.

    What is named again must be the same again. Raises `ValueError` where the pattern does not tell the time.
    """
    parts = re.split(r"(%.|\{channel\})", pattern)
    codes = tuple(dict.fromkeys(part for part in parts if part.startswith("%")))
    unknown = [code for code in codes if code not in CODES]
    if unknown or not {"%Y", "%H"} <= set(codes):
        why = f"unknown code {unknown[0]}" if unknown else "no %Y or no %H"
        raise ValueError(f"{pattern!r}, which does not tell the time ({why}) by {' '.join(CODES)}")
    text, seen = "", set[str]()
    for part in parts:
        spelled = CODES.get(part, r"\w+" if part == "{channel}" else "")
        name = part.strip("%{}")
        text += re.escape(part) if not spelled else f"(?P={name})" if part in seen else f"(?P<{name}>{spelled})"
        seen.add(part)
    return re.compile(rf"(?<![0-9A-Za-z]){text}$"), codes
