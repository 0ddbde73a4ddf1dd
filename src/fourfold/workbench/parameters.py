"""A notebook's parameters: read from the cell tagged `parameters`, and what is given checked against them."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.workbench import NotebookParameter

TAG = "parameters"
# What a parameter of a kind takes: a whole number serves where a float is wanted, a bool never as a number.
_TAKES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "list": (list, tuple),
    "dict": (dict,),
}


def read_notebook(data: bytes, *, what: str) -> dict[str, Any]:
    """A notebook as plain data; what is not one is refused."""
    try:
        notebook = json.loads(data)
        is_notebook = _is_notebook(notebook)
    except (ValueError, RecursionError):
        is_notebook = False
    if not is_notebook:
        raise Refused(f"{what} is not a notebook", ways_on=["give a Jupyter notebook (.ipynb, format 4)"])
    language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python")
    if language.lower() != "python":
        raise Refused(f"{what} is written in {language}; only Python notebooks can be run")
    found: dict[str, Any] = notebook
    return found


def _is_notebook(data: object) -> bool:
    """Whether what is read of a notebook, here and for its page, has the shape that it should have."""

    def is_text(value: object) -> bool:
        return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))

    def is_cell(cell: object) -> bool:
        if not (isinstance(cell, dict) and is_text(cell.get("source")) and "cell_type" in cell):
            return False
        metadata = cell.get("metadata", {})
        return isinstance(metadata, dict) and is_text(metadata.get("tags", []))

    if not (isinstance(data, dict) and isinstance(data.get("cells"), list)):
        return False
    metadata = data.get("metadata", {})
    kernel = metadata.get("kernelspec", {}) if isinstance(metadata, dict) else None
    return (
        isinstance(kernel, dict)
        and isinstance(kernel.get("language", ""), str)
        and all(map(is_cell, data["cells"]))
    )


def parameters_of(notebook: Mapping[str, Any], *, what: str) -> tuple[NotebookParameter, ...]:
    """The assignments of the cell tagged `parameters`, in order; none where there is no such cell."""
    for cell in notebook["cells"]:
        if TAG in cell.get("metadata", {}).get("tags", ()) and cell["cell_type"] == "code":
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            try:
                return tuple(_assignments(source))
            except SyntaxError as error:
                raise Refused(f"{what}: the parameters cell is not Python: {error}") from error
    return ()


def check_parameters(
    given: Mapping[str, object], known: tuple[NotebookParameter, ...], *, what: str
) -> dict[str, object]:
    """What is given, or `Refused`: a name that the notebook does not have, or a value of another kind."""
    by_name = {parameter.name: parameter for parameter in known}
    if given and not known:
        raise Refused(
            f"{what} takes no parameters, but {', '.join(sorted(given))} was given",
            ways_on=["tag the cell that assigns the defaults with 'parameters'"],
        )
    for name, value in given.items():
        parameter = by_name.get(name)
        if parameter is None:
            raise Refused(
                f"{what} has no parameter '{name}'",
                ways_on=did_you_mean(name, by_name, what="its parameters"),
                parameter=name,
            )
        takes = _TAKES.get(parameter.kind)
        is_taken = takes is None or (
            isinstance(value, takes) and (bool in takes or not isinstance(value, bool))
        )
        if not is_taken and not (value is None and parameter.default == "None"):
            raise Refused(
                f"{what}: parameter '{name}' takes {parameter.kind}, not {type(value).__name__} ({value!r})",
                ways_on=[f"its default is {parameter.default}"],
                parameter=name,
            )
    return dict(given)


def _assignments(source: str) -> list[NotebookParameter]:
    found: list[NotebookParameter] = []
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, value, kind = node.target.id, node.value, ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value, kind = node.targets[0].id, node.value, _kind(node.value)
        else:
            continue
        _, _, remark = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :].partition("#")
        found.append(NotebookParameter(name, ast.unparse(value), kind, remark.strip()))
    return found


def _kind(value: ast.expr) -> str:
    """The type of a literal, or nothing where it is computed or `None`."""
    try:
        literal = ast.literal_eval(value)
    except (ValueError, TypeError):
        return ""
    kind = type(literal).__name__
    return kind if kind in _TAKES else ""
