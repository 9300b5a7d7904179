"""Sizes and durations as people read them; :mod:`ray_envd.agent.humanize` reads what they write."""


def bytes_text(count: int) -> str:
    """Bytes with three significant digits and a decimal unit, as ``20GB`` is read: ``1.23 GB``."""
    if count < 1000:  # noqa: PLR2004 - the first unit
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        # What would be rounded up to 1000 belongs to the next unit.
        if value < 999.5 or unit == "TB":  # noqa: PLR2004 - see above
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0  # noqa: PLR2004 - three digits in all
    return f"{value:.{digits}f} {unit}"


def seconds_text(seconds: float) -> str:
    """A duration with its two largest units: ``340 ms``, ``12.5 s``, ``4 m 10 s``, ``3 d 2 h``."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.3g} s"
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    first = next(index for index, (_, size) in enumerate(units) if whole >= size)
    parts = []
    for name, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts)


def ago_text(then: float, now: float) -> str:
    """How long ago, in one unit: ``now``, ``45 s``, ``3 h``."""
    seconds = int(now - then)
    for name, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return "now"
