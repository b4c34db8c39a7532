"""Items made by a thread of their own, some ahead of who takes them."""

import sys
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
END: Any = object()


def ahead(items: Generator[T, None, None], n: int, name: str) -> Generator[T, None, None]:
    """The same items: while one is used, the next `n` are made in a thread. Close it to end the thread.

    The executor's thread, unlike a daemon, is waited for when the interpreter exits, for as long as the items under way
    take: a thread that is stopped inside torch by the end of the interpreter takes the process down with it.
    """
    thread, exiting, end = ThreadPoolExecutor(1, name), sys.is_finalizing, END  # at exit the names of modules are gone
    waiting = deque(thread.submit(next, items, end) for _ in range(n))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
            del item
    finally:
        for future in waiting:
            future.cancel()
        if not exiting():  # the thread has ended by then
            thread.shutdown()
            items.close()
