"""A model of CTranslate2 that is made in a moment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

__all__ = ["build_model"]


def build_model(folder: Path) -> None:
    """Make a model with random weights: it says nonsense, and loads and runs like any other."""
    ctranslate2: Any = pytest.importorskip("ctranslate2")
    sentencepiece: Any = pytest.importorskip("sentencepiece")

    folder.mkdir(parents=True)
    sentences = ["good morning to you all", "the house is big", "shall we begin now"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "sentencepiece"),
        vocab_size=24,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    vocabulary = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    spec = ctranslate2.specs.TransformerSpec.from_config(1, 2)
    random = np.random.default_rng(0)
    width = 8

    def fill(holder: object, name: str, shape: tuple[int, ...]) -> None:
        setattr(holder, name, random.standard_normal(shape).astype(np.float32))

    def fill_linear(linear: Any, out: int, into: int) -> None:  # noqa: ANN401
        fill(linear, "weight", (out, into))
        fill(linear, "bias", (out,))

    def fill_norm(norm: Any) -> None:  # noqa: ANN401
        fill(norm, "gamma", (width,))
        fill(norm, "beta", (width,))

    for side, coder in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        for embeddings in coder.embeddings if side == "encoder" else [coder.embeddings]:
            fill(embeddings, "weight", (len(vocabulary), width))
        coder.scale_embeddings = True
        fill(coder.position_encodings, "encodings", (600, width))
        fill_norm(coder.layer_norm)
        for layer in coder.layer:
            fill_linear(layer.self_attention.linear[0], 3 * width, width)
            fill_linear(layer.self_attention.linear[1], width, width)
            fill_norm(layer.self_attention.layer_norm)
            if side == "decoder":
                fill_linear(layer.attention.linear[0], width, width)
                fill_linear(layer.attention.linear[1], 2 * width, width)
                fill_linear(layer.attention.linear[2], width, width)
                fill_norm(layer.attention.layer_norm)
            fill_linear(layer.ffn.linear_0, 16, width)
            fill_linear(layer.ffn.linear_1, width, 16)
            fill_norm(layer.ffn.layer_norm)
    fill_linear(spec.decoder.projection, len(vocabulary), width)
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    spec.validate()
    spec.save(str(folder))
