"""How long one request to an S3 server may last: its timeouts count between bytes, and a server that drips meets them.

Slow to load: imported where a bucket is opened.
"""

import asyncio
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError

# The slowest line that is worked with, and what an answer that is read at once (a listing) may hold.
SLOWEST_BYTES_PER_SECOND, ANSWER_BYTES = 100_000, 1 << 20


class Patience(AIOHTTPSession):
    """Sends requests for s3fs (`config_kwargs`), and ends those that are slower than the slowest line.

    A request is sent and answered within twice the silence that is allowed, and what the line takes. A body that is
    read thereafter must bring in each such span at least half of one connection's share of the line. The connection
    of a request that is given up is closed.
    """

    async def send(self, request: Any) -> Any:
        span = 2 * self._timeout.sock_read
        sent = int(request.headers.get("X-Amz-Decoded-Content-Length") or request.headers.get("Content-Length") or 0)
        try:
            async with asyncio.timeout(span + (sent + ANSWER_BYTES) / SLOWEST_BYTES_PER_SECOND):
                answer = await super().send(request)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
        if request.stream_output:
            _watch(answer.raw, span, span * SLOWEST_BYTES_PER_SECOND / self._max_pool_connections / 2)
        return answer


def _watch(answer: aiohttp.ClientResponse, span: float, least: float) -> None:
    """Break an answer off when its body brings fewer than `least` bytes in `span` seconds."""
    body, loop = answer.content, asyncio.get_running_loop()

    def wait() -> None:
        body.on_eof(loop.call_later(span, look, body.total_bytes).cancel)

    def look(before: int) -> None:
        came = body.total_bytes - before
        if body.is_eof() or body.exception() is not None:
            return
        if came >= least:
            wait()
            return
        # No TimeoutError, of which fsspec would drop the text.
        body.set_exception(aiohttp.ClientPayloadError(f"too slow: {came} bytes came in {span:g} s"))
        answer.close()

    wait()
