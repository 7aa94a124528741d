"""The column `weight` of learning data: a number from -1 (unlearn) to 1 (learn)."""

from letgo.errors import InputError


def weight_of(value: object) -> float:
    """The weight of an example; 1 if it has none.

    Raises:
        InputError: it is not a number from -1 to 1.
    """
    if value is None or value == "":  # an empty cell
        return 1.0
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        weight = float(value)  # of a CSV file it is text
        if not -1 <= weight <= 1:  # nor NaN
            raise ValueError
    except ValueError as error:
        text = str(value)[:40]
        raise InputError(
            f"'weight' must be a number from -1 to 1, not {text!r}; correct it, or give the column "
            f"another name"
        ) from error
    return weight
