"""Work done in a thread before its result is asked for: batches are read while a step computes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead(Generic[Item, Result]):
    """A function whose next arguments can be announced.

    Args:
        function: what is computed, one argument after the other, in one thread.
    """

    def __init__(self, function: Callable[[Item], Result]):
        self._function = function
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._begun: list[tuple[Item, Future[Result]]] = []

    def __call__(self, item: Item, upcoming: Sequence[Item] = ()) -> Result:
        """The result for an argument; results for the upcoming ones are begun.

        Arguments are told apart by identity; what was announced and is neither asked for nor
        announced again is forgotten.
        """
        self._begun = [(one, self._begin(one)) for one in (item, *upcoming)]
        return self._begun.pop(0)[1].result()

    def _begin(self, item: Item) -> "Future[Result]":
        for one, future in self._begun:
            if one is item:
                return future
        return self._thread.submit(self._function, item)
