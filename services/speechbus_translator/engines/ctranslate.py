"""`ctranslate2`: models of the user's own, in the format of CTranslate2, with SentencePiece.

Needs the extra `ctranslate2` (`pip install speechbus[ctranslate2]`).
"""

import asyncio
import importlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from speechbus_translator.engines.interface import EngineUnavailableError, primary

__all__ = ["CTranslate2", "ModelFolderError"]

BEAM_SIZE: Final = 2
"""As good as 4 for finals of some words, and half the time."""
TOKENS_MAX: Final = 512
"""Longest output; a model in a loop ends there."""
_FOLDER: Final = re.compile(r"([A-Za-z]{2,3})-([A-Za-z]{2,3})")


class ModelFolderError(Exception):
    """The folder holds no models that can be loaded; the text says which, and what to do."""


class _Model(msgspec.Struct, frozen=True):
    translator: Any
    source: Any
    target: Any


class CTranslate2:
    """The models of one folder, one for each pair.

    Args:
        folder: has a folder for each pair (`en-es`), with `model.bin` and its vocabulary, and
            `source.spm` and `target.spm`, or one `sentencepiece.model` for both.
        threads: texts translated at the same time.

    Raises:
        ModelFolderError: the extra is not installed, or a model cannot be loaded.
    """

    name = "ctranslate2"

    def __init__(self, folder: Path, *, threads: int) -> None:
        try:
            ctranslate2 = importlib.import_module("ctranslate2")
            sentencepiece = importlib.import_module("sentencepiece")
        except ModuleNotFoundError as error:
            raise ModelFolderError(
                f"{error.name} is not installed: pip install speechbus[ctranslate2]"
            ) from None
        self._models: dict[tuple[str, str], _Model] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = _FOLDER.fullmatch(path.name)
            if name is not None:
                source, target = name.groups()
                model = _load(path, ctranslate2, sentencepiece, threads=threads)
                self._models[source.lower(), target.lower()] = model
        if not self._models:
            raise ModelFolderError(f"{folder} has no folder of a pair, such as en-es")
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ctranslate2")

    def serves(self, source: str | None, target: str) -> bool:
        """Whether there is a model for the pair."""
        return source is not None and (primary(source), primary(target)) in self._models

    async def translate(self, text: str, *, source: str | None, target: str) -> str:
        """Run the model in a thread; see `Engine`. A cancelled text is translated to its end."""
        model = self._models[primary(source or ""), primary(target)]
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, _translate, model, text)
        except Exception:  # noqa: BLE001 - whatever two libraries raise, some of it with the text
            raise EngineUnavailableError("model_failed") from None

    async def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _load(path: Path, ctranslate2: Any, sentencepiece: Any, *, threads: int) -> _Model:  # noqa: ANN401
    shared = path / "sentencepiece.model"
    names = (shared, shared) if shared.exists() else (path / "source.spm", path / "target.spm")
    try:
        translator = ctranslate2.Translator(
            str(path), device="cpu", inter_threads=threads, intra_threads=1
        )
        source, target = (
            sentencepiece.SentencePieceProcessor(model_file=str(name)) for name in names
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelFolderError(f"{path} cannot be loaded: {error}") from None
    return _Model(translator, source, target)


def _translate(model: _Model, text: str) -> str:
    pieces = model.source.encode(text, out_type=str)
    (result,) = model.translator.translate_batch(
        [pieces], beam_size=BEAM_SIZE, max_decoding_length=TOKENS_MAX
    )
    decoded: str = model.target.decode(result.hypotheses[0])
    return decoded
