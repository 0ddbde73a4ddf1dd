"""How a model answers when nobody said how. A copy of this file is kept in each version that uses it."""

from __future__ import annotations

from typing import Any


def predict(model: Any, features: Any) -> dict[str, Any]:
    """`prediction`, and for classifiers `probability` (of the second of two classes, else one a class)."""
    if hasattr(features, "column_names"):  # an Arrow table: models take matrices
        import numpy as np

        features = np.column_stack([features[name].to_numpy() for name in features.column_names])
    if not hasattr(model, "predict"):
        return {"prediction": model(features)}
    answers = {"prediction": model.predict(features)}
    if hasattr(model, "predict_proba"):
        probabilities = model.predict_proba(features)
        classes = list(model.classes_)
        if len(classes) == 2:
            answers["probability"] = probabilities[:, 1]
        else:
            for index, each in enumerate(classes):
                answers[f"probability_{each}"] = probabilities[:, index]
    return answers
