"""The feature store: one definition, the same numbers in training and serving."""
