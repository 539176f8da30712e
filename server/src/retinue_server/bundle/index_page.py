"""Pages by which a web server lists folders, read up to a bound: it may send anything, and without end."""

import asyncio

import aiohttp

MOST_BYTES = 16 * 1024 * 1024
_MOST_SECONDS = 60
# No link of an index is longer.
_MOST_TAG_CHARACTERS = 4096


class IndexPage(aiohttp.ClientResponse):
    """A response whose text is that of an index of folders; nothing else asks for text."""

    async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
        """Reads the tags of the page.

        Raises:
            ValueError: It is larger than any index.
            TimeoutError: It takes longer than any.
        """
        content = bytearray()
        async with asyncio.timeout(_MOST_SECONDS):
            async for chunk in self.content.iter_any():
                content += chunk
                if len(content) > MOST_BYTES:
                    raise ValueError(f"a page has more than {MOST_BYTES:,} bytes")
        return tags(content.decode(encoding or self.charset or "utf-8", errors))


def tags(page: str) -> str:
    """The tags of a page, on one line and without what lies between them.

    fsspec looks for links with an expression whose time grows with the cube of a run of spaces, and with the square of
    a page of tags that are not closed, and holds up all threads meanwhile.
    """
    ends = (piece[max(piece.rfind("<"), 0) :] for piece in page.split(">")[:-1])
    return "".join(f"{' '.join(tag.split())}>" for tag in ends if len(tag) <= _MOST_TAG_CHARACTERS)
