"""A random sample of a stream that is too long to be held in memory."""

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Reservoir(Generic[T]):
    """At most `most` of the items added, every one with the same probability (Vitter's R).

    Args:
        most: None keeps all.
    """

    def __init__(self, most: int | None = None):
        self.most, self.count = most, 0
        self._kept: list[tuple[int, T]] = []
        self._random = random.Random(0)

    def add(self, item: T) -> None:
        """Add an item, which may replace another one."""
        if self.most is None or self.count < self.most:
            self._kept.append((self.count, item))
        elif (place := self._random.randrange(self.count + 1)) < self.most:
            self._kept[place] = (self.count, item)
        self.count += 1

    @property
    def items(self) -> list[T]:
        """The items of the sample, in the order in which they were added."""
        return [item for _, item in sorted(self._kept, key=lambda pair: pair[0])]
