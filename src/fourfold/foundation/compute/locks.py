"""Reading locks: requirements files in which every package is pinned, as `uv pip compile` and pip write them.

Also the markers of PEP 508 ("only on Python 3.11"), as far as locks use them.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping

from fourfold.core.environment import Environment, Package, canonical_marker, canonical_name
from fourfold.core.errors import Refused

OURSELVES = "fourfold"
"""Never fetched nor hashed: a built environment gets a link to the package that builds it."""
RECORD_HASH = "record-sha256:"
"""Our own kind of hash: of the files that an installed package says it has (see `installed.py`)."""

# Options that say where packages come from, or how an installer shows things: never part of an identity.
_ADDRESS_OPTIONS = (
    "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host",
    "--only-binary", "--no-binary", "--prefer-binary", "--require-hashes", "--pre", "--use-feature",
)  # fmt: skip
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*={2,3}\s*(?P<version>[^\s;]+)\s*")
_HASH = re.compile(r"--hash[=\s]\s*(\S+)")
WAY_ON = "write a lock: uv pip compile --universal --generate-hashes requirements.in -o requirements.lock"


def parse_lock(text: str, *, what: str = "the lock") -> tuple[Package, ...]:
    """The packages of a lock; what is not pinned is refused, naming the line.

    >>> parse_lock('''
    ... # made by a tool
    ... --index-url https://example.org/simple
    ... numpy==2.4.6 ; python_version >= "3.11" \\\\
    ...     --hash=sha256:bb \\\\
    ...     --hash=sha256:aa
    ... ''')  # doctest: +NORMALIZE_WHITESPACE
    (Package(name='numpy', version='2.4.6', hashes=('sha256:aa', 'sha256:bb'),
             marker="python_version >= '3.11'"),)
    >>> parse_lock("numpy>=2", what="requirements.txt")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: requirements.txt line 1 does not pin a package: 'numpy>=2'
      write a lock: uv pip compile --universal --generate-hashes requirements.in -o requirements.lock
    """
    packages = []
    for number, line in _logical_lines(text):
        if line.split("=")[0].split()[0] in _ADDRESS_OPTIONS:
            continue
        hashes = tuple(sorted(set(_HASH.findall(line))))
        requirement, _, marker = _HASH.sub("", line).partition(";")
        pinned = _PINNED.fullmatch(requirement.strip() + " ")
        if pinned is None or "*" in pinned["version"]:
            raise Refused(
                f"{what} line {number} does not pin a package: '{line}'", ways_on=[WAY_ON], line=number
            )
        name, version = canonical_name(pinned["name"]), pinned["version"]
        packages.append(Package(name, version, hashes, canonical_marker(marker)))
    return tuple(packages)


def demand_hashes(packages: Iterable[Package], *, what: str) -> None:
    """Refuse pins without a hash: the same version may hold other files tomorrow.

    >>> demand_hashes([Package("numpy", "2.4.6")], what="requirements.lock")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: requirements.lock has no hash for numpy==2.4.6
      without one, another file of that version could be installed
      write a lock: uv pip compile --universal --generate-hashes requirements.in -o requirements.lock
    """
    bare = [f"{each.name}=={each.version}" for each in packages if not each.hashes and each.name != OURSELVES]
    if bare:
        more = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
        raise Refused(
            f"{what} has no hash for {bare[0]}{more}",
            ways_on=["without one, another file of that version could be installed", WAY_ON],
            packages=bare,
        )


def write_lock(packages: tuple[Package, ...], *, note: str = "") -> str:
    """The text of a lock; reading it gives the same packages."""
    lines = [f"# {line}" for line in note.splitlines()]
    for package in packages:
        marker = f" ; {package.marker}" if package.marker else ""
        pins = [f"{package.name}=={package.version}{marker}", *(f"--hash={h}" for h in package.hashes)]
        lines.append(" \\\n    ".join(pins))
    return "\n".join(lines) + "\n"


def applies(package: Package, names: Mapping[str, str] | None = None) -> bool:
    """Whether this Python installs the package at all."""
    return not package.marker or evaluate(package.marker, marker_names() if names is None else names)


def applicable(environment: Environment) -> tuple[Package, ...]:
    """The packages of an environment that this Python installs."""
    names = marker_names()
    return tuple(package for package in environment.packages if applies(package, names))


def marker_names() -> dict[str, str]:
    """What markers may ask, as this interpreter answers."""
    info = sys.implementation.version
    return {
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "python_full_version": platform.python_version(),
        "os_name": os.name,
        "sys_platform": sys.platform,
        "platform_machine": platform.machine(),
        "platform_system": platform.system(),
        "platform_release": platform.release(),
        "platform_version": platform.version(),
        "platform_python_implementation": platform.python_implementation(),
        "implementation_name": sys.implementation.name,
        "implementation_version": f"{info.major}.{info.minor}.{info.micro}",
        "extra": "",
    }


_TOKEN = re.compile(
    r"\s*(?:(?P<paren>[()])|(?P<text>'[^']*'|\"[^\"]*\")|(?P<op>===|==|~=|!=|<=|>=|<|>)|(?P<word>[\w.]+))"
)
_VERSIONS = ("python_version", "python_full_version", "implementation_version", "platform_release")


def evaluate(marker: str, names: Mapping[str, str]) -> bool:
    """Whether a marker holds.

    >>> names = {"python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux"}
    >>> evaluate("python_version >= '3.9' and (sys_platform == 'win32' or sys_platform == 'linux')", names)
    True
    >>> evaluate("python_full_version == '3.12.*'", names)
    False
    """
    tokens = []
    position, text = 0, marker.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Refused(f"marker '{marker}' cannot be read at '{text[position:]}'")
        tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
        position = match.end()
    reader = _Markers(marker, tokens, names)
    value = reader.either()
    if reader.tokens:
        raise Refused(f"marker '{marker}' has something left over: '{reader.tokens[0][1]}'")
    return value


class _Markers:
    """Reads `or` of `and` of comparisons, by recursive descent."""

    def __init__(self, marker: str, tokens: list[tuple[str, str]], names: Mapping[str, str]) -> None:
        self.marker, self.tokens, self.names = marker, tokens, names

    def either(self) -> bool:
        value = self.both()
        while self._takes("or"):
            value = self.both() or value
        return value

    def both(self) -> bool:
        value = self.one()
        while self._takes("and"):
            value = self.one() and value
        return value

    def one(self) -> bool:
        if self._takes("("):
            value = self.either()
            if not self._takes(")"):
                raise Refused(f"marker '{self.marker}' lacks a ')'")
            return value
        left, left_name = self._operand()
        op = self._next()[1]
        if op == "not":
            op = f"not {self._next()[1]}"
        right, right_name = self._operand()
        return _compare(left, op, right, as_versions={left_name, right_name} & set(_VERSIONS) != set())

    def _operand(self) -> tuple[str, str]:
        kind, text = self._next()
        if kind == "text":
            return text[1:-1], ""
        if kind != "word" or text not in self.names:
            raise Refused(f"marker '{self.marker}' asks '{text}', which is not known")
        return self.names[text], text

    def _next(self) -> tuple[str, str]:
        if not self.tokens:
            raise Refused(f"marker '{self.marker}' ends too early")
        return self.tokens.pop(0)

    def _takes(self, word: str) -> bool:
        if self.tokens and self.tokens[0][0] != "text" and self.tokens[0][1] == word:
            self.tokens.pop(0)
            return True
        return False


def _compare(left: str, op: str, right: str, *, as_versions: bool) -> bool:
    if op in ("in", "not in"):
        return (left in right) is (op == "in")
    if right.endswith(".*"):
        is_under = left == right[:-2] or left.startswith(right[:-1])
        return is_under is (op == "==")
    a, b = (_version(left), _version(right)) if as_versions else (((0, left),), ((0, right),))
    match op:
        case "==" | "===":
            return a == b
        case "!=":
            return a != b
        case "<":
            return a < b
        case "<=":
            return a <= b
        case ">":
            return a > b
        case ">=":
            return a >= b
        case "~=":
            release = right.split(".")[:-1]
            return a >= b and left.split(".")[: len(release)] == release
        case _:
            raise Refused(f"a marker compares with '{op}', which is not known")


def _version(text: str) -> tuple[tuple[int, str], ...]:
    """A version that sorts: numbers as numbers; a pre-release (`3.12.0rc1`) before its release."""
    pieces = re.findall(r"\d+|[a-z]+", text.lower())
    parts = [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
    while parts and parts[-1] == (0, ""):
        parts.pop()
    return tuple(parts)


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines without comments, joined where they end in a backslash, with the number of their first."""
    lines: list[tuple[int, str]] = []
    number, whole = 0, ""
    for index, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        number = number or index
        whole += line.removesuffix("\\").rstrip() + " "
        if not line.endswith("\\"):
            if whole.strip():
                lines.append((number, whole.strip()))
            number, whole = 0, ""
    if whole.strip():
        lines.append((number, whole.strip()))
    return lines
