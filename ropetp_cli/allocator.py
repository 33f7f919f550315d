"""How the process takes memory from the system while networks run on its CPU."""

import ctypes
from functools import cache

#: glibc's names for what mallopt sets.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 1 << 29


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep up to half a gigabyte of freed memory for the next request.

    By default it hands every large array back to the system, which clears each page anew for the
    next one: on a CPU a third of a network's time. Returns whether this C library could be told;
    others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


def give_back_freed_memory() -> bool:
    """Hand what glibc has kept back to the system, holes between what is in use included.

    Small results that outlive a network's batches come to lie among the large arrays freed, and
    larger ones find no room there any more: the process would grow with every hour of video.
    Returns whether there was any to give back.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False
