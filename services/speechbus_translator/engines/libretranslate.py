"""`libretranslate`: any server that answers `POST /translate` as LibreTranslate does.

Its form (docs.libretranslate.com, "API Operations", read 2026-11-29): JSON with `q`, `source`,
`target`, `format`, `api_key`; the answer has `translatedText`, or `error` with 400 (pair or text),
403 (key), 429 (too many), 500.
"""

import asyncio
import logging
import ssl
from typing import Final, TypeVar

import httpx
import msgspec

from speechbus_translator.engines.interface import (
    EngineRefusedError,
    EngineUnavailableError,
    primary,
)

__all__ = ["LibreTranslate", "read_pairs", "read_translation"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 1 << 20
"""A translation has some kilobytes, the list of languages some hundred."""
LANGUAGES_TIMEOUT_S: Final = 5.0
LANGUAGES_AGAIN_S: Final = (5.0, 600.0)
"""The list of languages is asked for again: after a failure, and after an answer."""
UNKNOWN_SOURCE: Final = "auto"


class _Language(msgspec.Struct, frozen=True):
    code: str
    targets: tuple[str, ...] | None = None
    """Absent in old servers: any language is translated into any other."""


class _Answer(msgspec.Struct, frozen=True):
    translated: str = msgspec.field(name="translatedText")


_languages: Final = msgspec.json.Decoder(tuple[_Language, ...])
_answer: Final = msgspec.json.Decoder(_Answer)


class LibreTranslate:
    """One server.

    Args:
        url: before `/translate`.
        api_key: empty: none is sent.
        connections_max: requests at the same time.
    """

    name = "libretranslate"

    def __init__(self, url: str, *, api_key: str, connections_max: int) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._pairs: dict[str, frozenset[str]] | None = None
        self._http = httpx.AsyncClient(
            timeout=None,  # noqa: S113 - whoever calls has a deadline
            follow_redirects=False,
            trust_env=False,
            headers={"accept-encoding": "identity"},
            verify=ssl.create_default_context(),
            limits=httpx.Limits(max_connections=connections_max),
        )
        self._asking = asyncio.get_running_loop().create_task(
            self._ask_languages(), name="libretranslate languages"
        )

    def serves(self, source: str | None, target: str) -> bool:
        """Whether the server has said so; before it has said anything it gets a try."""
        if self._pairs is None:
            return True
        to_all = frozenset(code for targets in self._pairs.values() for code in targets)
        code = UNKNOWN_SOURCE if source is None else _find(source, frozenset(self._pairs))
        targets = to_all if code == UNKNOWN_SOURCE else self._pairs.get(code or "", frozenset())
        return _find(target, targets) is not None

    async def translate(self, text: str, *, source: str | None, target: str) -> str:
        """Ask the server; see `Engine`."""
        request = {
            "q": text,
            "source": UNKNOWN_SOURCE if source is None else self._spell(source),
            "target": self._spell(target),
            "format": "text",
            **({"api_key": self._api_key} if self._api_key else {}),
        }
        status, headers, body = await self._exchange("POST", "/translate", request)
        if status == 200:
            return read_translation(body)
        retry_after = headers.get("retry-after", "")
        if status == 400 or status == 413:
            raise EngineRefusedError(f"http_{status}")
        raise EngineUnavailableError(
            f"http_{status}",
            retry_after_s=float(retry_after)
            if retry_after.isascii() and retry_after.isdigit()
            else None,
        )

    async def close(self) -> None:
        """Close connections."""
        self._asking.cancel()
        await asyncio.wait([self._asking])
        await self._http.aclose()

    def _spell(self, tag: str) -> str:
        known = self._pairs or {}
        codes = frozenset(known) | frozenset(code for codes in known.values() for code in codes)
        return _find(tag, codes) or primary(tag)

    async def _ask_languages(self) -> None:
        failed_s, answered_s = LANGUAGES_AGAIN_S
        while True:
            pause_s = failed_s
            try:
                async with asyncio.timeout(LANGUAGES_TIMEOUT_S):
                    status, _, body = await self._exchange("GET", "/languages", None)
                if status == 200:
                    self._pairs = read_pairs(body)
                    pause_s = answered_s
            except (TimeoutError, EngineUnavailableError) as error:
                logger.debug("no list of languages", extra={"reason": type(error).__name__})
            await asyncio.sleep(pause_s)

    async def _exchange(
        self, method: str, path: str, request: dict[str, str] | None
    ) -> tuple[int, httpx.Headers, bytes]:
        try:
            async with self._http.stream(method, self._url + path, json=request) as response:
                body = b""
                # As it came: what is compressed, unasked, could be of any size.
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > BODY_BYTES_MAX:
                        raise EngineUnavailableError("answer_too_large")
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            # Without its text, which may quote the request.
            raise EngineUnavailableError("no_connection") from None
        return response.status_code, response.headers, body


def read_translation(body: bytes) -> str:
    """Return the text of an answer.

    Raises:
        EngineUnavailableError: there is none.
    """
    return _decode(_answer, body, "no_translation_in_answer").translated


def read_pairs(body: bytes) -> dict[str, frozenset[str]]:
    """Return the languages that each language is translated into.

    Raises:
        EngineUnavailableError: the answer is no such list.
    """
    languages = _decode(_languages, body, "no_languages_in_answer")
    codes = frozenset(language.code for language in languages)
    return {
        language.code: codes if language.targets is None else frozenset(language.targets)
        for language in languages
    }


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, problem: str) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise EngineUnavailableError(problem) from None


def _find(tag: str, codes: frozenset[str]) -> str | None:
    """Return the server's code for a tag: the same, or else that of the language alone."""
    by_spelling = {code.lower(): code for code in codes}
    return by_spelling.get(tag.lower()) or by_spelling.get(primary(tag))
