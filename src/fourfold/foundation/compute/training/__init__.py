"""Small training tasks of fixed quality, written with NumPy alone so that every machine runs the same code.

Each task has `make_data(generator)` and `train(data, generator)`, which yields the quality on rows held out
after each few steps. Hyper-parameters are constants of the file: whoever changes one, or the data, raises
`core.quality.SUITE_VERSION` and measures the reference steps anew.
"""
