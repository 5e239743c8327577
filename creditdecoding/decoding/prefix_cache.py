"""Keys and values of text that earlier requests began with, for block-causal models.

There the keys and values of a block depend on its ids and those before it, so a request whose
prompt begins as another one's text did (a shared instruction, the turns of a chat so far) can take
them over: exactly, up to the rounding of sums. Text is kept in pages of whole blocks. A page is
found by a hash of all ids up to its end; the least recently used pages are dropped, of one text
the last ones first, since the first ones serve more requests.

What is stored belongs to one model with one set of weights: `check_weights` empties the store when
a weight was written in place. Weights that are exchanged behind torch's version counters
(`parameter.data`) are not noticed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from creditdecoding.config import EngineConfig
from creditdecoding.decoding.request import Request
from creditdecoding.models.kv_cache import KVCache

MIN_PAGE = 32
"""Positions of a page, or the next multiple of the model's blocks."""
DEFAULT_BYTES = 2**28
"""Bytes of the store where it is not known how much memory is free."""


def prefix_cache_bytes(config: EngineConfig, free_bytes: int | None) -> int:
    """Bytes of the store: what the option says, else a tenth of the free memory. 0 is no store."""
    if config.prefix_cache is not None:
        return int(config.prefix_cache * 2**30)
    return DEFAULT_BYTES if free_bytes is None else free_bytes // 10


class PrefixCache:
    """At most `max_bytes` of pages, `nbytes` now.

    An engine calls `load` before a request's first pass over a block, and `save` after each pass
    that made positions final. Guided requests are left out: they have a second row.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._pages: OrderedDict[bytes, Tensor] = OrderedDict()
        self._weights: tuple[int, ...] = ()

    def check_weights(self, model: object) -> None:
        """Forget everything if a weight has changed since the last call, as in training."""
        parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
        weights = tuple(0 if p.is_inference() else p._version for p in parameters)
        if weights != self._weights:
            self._pages.clear()
            self.nbytes = 0
        self._weights = weights

    def next_page(self, request: Request) -> bytes | None:
        """The page that the request computes next; None if it computes none before its block."""
        pages = _pages(request, request.block_position.start)
        return next((key for key, _, end in pages if end > request.stored_until), None)

    def load(self, request: Request, cache: KVCache) -> Request:
        """The request after the pages that follow what it has stored are copied to its slot."""
        if request.step:
            return request
        stored = request.stored_until
        known: list[bytes] = []
        for key, start, end in _pages(request, request.block_position.start):
            page = self._pages.get(key)
            if page is None:
                break
            known.append(key)
            if end > stored:
                cache.write_columns(request.cache_slot, start, page)
                stored = end
        self._touch(known)
        reused = request.reused + stored - request.stored_until
        return request.after_step(stored_until=stored, reused=reused)

    def save(self, before: Request, after: Request, cache: KVCache) -> None:
        """Keep the pages that became final between two states of a request."""
        if after.stored_until == before.stored_until:
            return
        known: list[bytes] = []
        for key, start, end in _pages(after, after.stored_until):
            if key not in self._pages:
                page = cache.read_columns(before.cache_slot, start, end)
                if (1 + len(known)) * page.nbytes > self.max_bytes:
                    break
                self._pages[key] = page
                self.nbytes += page.nbytes
            known.append(key)
        self._touch(known)
        while self.nbytes > self.max_bytes:
            self.nbytes -= self._pages.popitem(last=False)[1].nbytes

    def _touch(self, keys: Sequence[bytes]) -> None:
        """Mark pages of one text as used; its last pages go first, which none depends on."""
        for key in reversed(keys):
            self._pages.move_to_end(key)


def _pages(request: Request, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Hash, start and end of each page of the request's text before `end`."""
    block = request.geometry.causal_block
    if request.guided or block is None or not request.uses_cache:
        return
    size = block * -(-MIN_PAGE // block)
    ids = request.canvas[:end].numpy()
    digest = blake2b(digest_size=16)
    for start in range(0, end - size + 1, size):
        digest.update(ids[start : start + size].tobytes())
        yield digest.digest(), start, start + size


def first_of_each_page(requests: Sequence[Request], cache: PrefixCache) -> list[Request]:
    """The requests without those whose next page an earlier one is about to compute."""
    pages: set[bytes] = set()
    first = []
    for request in requests:
        page = None if request.step else cache.next_page(request)
        if page is None or page not in pages:
            first.append(request)
        if page is not None:
            pages.add(page)
    return first
