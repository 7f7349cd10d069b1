"""all-MiniLM-L6-v2 in NumPy: from text to a vector of length 1."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
LAYERS, HEADS, WIDTH = 6, 12, 384
LONGEST = 48  # tokens, the two at the ends included
BATCH = 4096  # tokens


class Tokens:
    """BERT's uncased word pieces."""

    def __init__(self, vocabulary: str) -> None:
        self.number = {piece: row for row, piece in enumerate(vocabulary.split("\n"))}

    def __call__(self, text: str) -> tuple[int, ...]:
        """The numbers of a text's pieces between [CLS] and [SEP], LONGEST at most."""
        pieces = [piece for word in words(text) for piece in self.pieces(word)]
        return (self.number["[CLS]"], *pieces[: LONGEST - 2], self.number["[SEP]"])

    def pieces(self, word: str) -> list[int]:
        """The longest pieces from the left."""
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = self.number.get(("##" if start else "") + word[start:end])
                if piece is not None:
                    break
            else:
                return [self.number["[UNK]"]]
            found.append(piece)
            start = end
        return found


def words(text: str) -> list[str]:
    """Lower case without accents; every punctuation mark a word of its own."""
    plain = (mark for mark in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(mark) != "Mn")
    return "".join(f" {mark} " if is_punctuation(mark) else mark for mark in plain).split()


def is_punctuation(mark: str) -> bool:
    """All of ASCII that is neither letter, digit nor space; of the rest what Unicode calls so."""
    if mark.isascii():
        return mark.isprintable() and not mark.isalnum() and mark != " "
    return unicodedata.category(mark).startswith("P")


class MiniLM:
    """The model of these weights, as safetensors names them."""

    def __init__(self, weights: dict[str, NDArray[Any]]) -> None:
        self.weights = {name.removeprefix("bert."): np.asarray(value, np.float32) for name, value in weights.items()}

    def embed(self, texts: list[tuple[int, ...]]) -> Iterator[tuple[list[int], Float32s]]:
        """(numbers of texts, their vectors) in batches of texts of one length: no padding, so no mask."""
        lengths = defaultdict(list)
        for number, tokens in enumerate(texts):
            lengths[len(tokens)].append(number)
        for length, numbers in sorted(lengths.items()):
            step = max(1, BATCH // length)
            for start in range(0, len(numbers), step):
                part = numbers[start : start + step]
                yield part, self.forward(np.array([texts[number] for number in part]))

    def forward(self, tokens: NDArray[np.int64]) -> Float32s:
        """(m, 384) of (m, length) tokens: the mean of the last layer, divided by its length."""
        there = self.weights
        state = there["embeddings.word_embeddings.weight"][tokens]
        state += there["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        state += there["embeddings.token_type_embeddings.weight"][0]
        state = self._normed(state, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            state = self._normed(state + self._attended(state, f"{name}.attention"), f"{name}.attention.output.LayerNorm")
            inner = gelu(self._linear(state, f"{name}.intermediate.dense"))
            state = self._normed(state + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        mean = state.mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _attended(self, state: Float32s, name: str) -> Float32s:
        m, length, _ = state.shape
        parts = (self._linear(state, f"{name}.self.{one}") for one in ("query", "key", "value"))
        query, key, value = (part.reshape(m, length, HEADS, -1).transpose(0, 2, 1, 3) for part in parts)
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32((WIDTH // HEADS) ** 0.5)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return self._linear((scores @ value).transpose(0, 2, 1, 3).reshape(m, length, WIDTH), f"{name}.output.dense")

    def _linear(self, state: Float32s, name: str) -> Float32s:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return (state.reshape(-1, state.shape[-1]) @ weight.T + bias).reshape(*state.shape[:-1], -1)

    def _normed(self, state: Float32s, name: str) -> Float32s:
        state = state - state.mean(axis=-1, keepdims=True)
        state /= np.sqrt(np.mean(state * state, axis=-1, keepdims=True) + np.float32(1e-12))
        return state * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def gelu(x: Float32s) -> Float32s:
    """x times the share of a normal distribution below x; erf by Abramowitz and Stegun 7.1.26, within 1.5e-7."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    above = np.float32(0.5) * series * np.exp(-z * z)  # the share above |x|
    return x * np.where(x > 0, 1 - above, above)
