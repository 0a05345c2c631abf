"""The templates of the report and the card, and how figures stand in them."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(kind: str) -> Environment:
    """The package's templates; ``kind`` "html" escapes what it is given."""
    environment = Environment(
        loader=PackageLoader("mien.evaluation"),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "p_value": p_value,
        "number": lambda value: f"{value:,}",
    }
    return environment


def percent(share: float | None, decimals: int = 1) -> str:
    """A share as a percentage; a dash where it is not defined."""
    return "–" if share is None else f"{share:.{decimals}%}"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "–" if difference is None else f"{100 * difference:+z.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value to three decimals."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
