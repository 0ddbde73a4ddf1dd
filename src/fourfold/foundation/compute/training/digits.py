"""A small neural network on drawn digits: 20×20 pixels, two hidden layers, quality is the accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROWS, TEST_ROWS, SIDE = 12_000, 2_000, 20
HIDDEN, BATCH, RATE, MOMENTUM = 512, 128, 0.03, 0.9
STEPS_PER_LOOK = 10
MOST_LOOKS = 100

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

# Five by seven points each, a row of points per number, the highest bit on the left.
GLYPHS = (
    (14, 17, 19, 21, 25, 17, 14),
    (4, 12, 4, 4, 4, 4, 14),
    (14, 17, 1, 2, 4, 8, 31),
    (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2),
    (31, 16, 30, 1, 1, 17, 14),
    (6, 8, 16, 30, 17, 17, 14),
    (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14),
    (14, 17, 17, 15, 1, 2, 12),
)


@dataclass(frozen=True, slots=True)
class Data:
    train: Floats
    train_labels: Labels
    test: Floats
    test_labels: Labels


def make_data(generator: np.random.Generator) -> Data:
    """Each digit turned, stretched, sheared and moved a little, and noise over it."""
    count = ROWS + TEST_ROWS
    labels = generator.integers(0, 10, count)
    pictures = _drawn(labels, generator)
    pictures += generator.normal(0.0, 0.3, pictures.shape).astype(np.float32)
    return Data(pictures[:ROWS], labels[:ROWS], pictures[ROWS:], labels[ROWS:])


def _drawn(labels: Labels, generator: np.random.Generator) -> Floats:
    """Each pixel asks where in the glyph it lies, and takes what is there, between its four points."""
    count = len(labels)
    padded = np.zeros((10, 9, 7), np.float32)
    bits = np.array(GLYPHS)[:, :, None] >> np.arange(4, -1, -1) & 1
    padded[:, 1:8, 1:6] = bits
    angle, shear = generator.normal(0.0, 0.15, count), generator.normal(0.0, 0.15, count)
    height, width = generator.uniform(1.7, 2.5, count), generator.uniform(1.9, 2.9, count)
    move = generator.normal(0.0, 1.0, (2, count))
    places = np.arange(SIDE) - (SIDE - 1) / 2
    y, x = np.meshgrid(places, places, indexing="ij")
    y, x = y.reshape(1, -1) - move[0][:, None], x.reshape(1, -1) - move[1][:, None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    row = (cos * y - sin * x) / height[:, None]
    column = (sin * y + cos * x) / width[:, None] + shear[:, None] * row
    row, column = np.clip(row + 4, 0, 7.999), np.clip(column + 3, 0, 5.999)
    top, left = row.astype(np.int64), column.astype(np.int64)
    down, right = (row - top).astype(np.float32), (column - left).astype(np.float32)
    glyph = labels[:, None]
    upper = padded[glyph, top, left] * (1 - right) + padded[glyph, top, left + 1] * right
    lower = padded[glyph, top + 1, left] * (1 - right) + padded[glyph, top + 1, left + 1] * right
    drawn: Floats = upper * (1 - down) + lower * down
    return drawn


def train(data: Data, generator: np.random.Generator) -> Iterator[float]:
    """The accuracy on held-out pictures after each `STEPS_PER_LOOK` steps."""
    sizes = (SIDE * SIDE, HIDDEN, HIDDEN, 10)
    weights = [
        generator.normal(0.0, (2.0 / above) ** 0.5, (above, below)).astype(np.float32)
        for above, below in itertools.pairwise(sizes)
    ]
    shifts = [np.zeros(size, np.float32) for size in sizes[1:]]
    speeds = [np.zeros_like(each) for each in (*weights, *shifts)]
    order, at = generator.permutation(ROWS), 0
    for _ in range(MOST_LOOKS):
        for _ in range(STEPS_PER_LOOK):
            if at + BATCH > ROWS:
                order, at = generator.permutation(ROWS), 0
            rows, at = order[at : at + BATCH], at + BATCH
            slopes = _slopes(data.train[rows], data.train_labels[rows], weights, shifts)
            for each, speed, slope in zip((*weights, *shifts), speeds, slopes, strict=True):
                speed *= MOMENTUM
                speed -= RATE * slope
                each += speed
        guessed = np.argmax(_layers(data.test, weights, shifts)[-1], axis=1)
        yield float(np.mean(guessed == data.test_labels))


def _layers(pictures: Floats, weights: list[Floats], shifts: list[Floats]) -> list[Floats]:
    layers = [pictures]
    for number, (weight, shift) in enumerate(zip(weights, shifts, strict=True)):
        raw = layers[-1] @ weight + shift
        layers.append(raw if number == len(weights) - 1 else np.maximum(raw, 0.0))
    return layers


def _slopes(pictures: Floats, labels: Labels, weights: list[Floats], shifts: list[Floats]) -> list[Floats]:
    """Of the mean cross-entropy, by each weight and then each shift."""
    layers = _layers(pictures, weights, shifts)
    odds = np.exp(layers[-1] - layers[-1].max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1.0
    error /= len(labels)
    of_weights: list[Floats] = []
    of_shifts: list[Floats] = []
    for number in reversed(range(len(weights))):
        of_weights.append(layers[number].T @ error)
        of_shifts.append(error.sum(axis=0))
        if number:
            error = (error @ weights[number].T) * (layers[number] > 0)
    return [*reversed(of_weights), *reversed(of_shifts)]
