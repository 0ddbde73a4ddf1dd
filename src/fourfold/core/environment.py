"""An environment: the Python, the platform and the exact packages that code runs with, under one name.

The name (`identity`) is a digest of what would be installed, never of a file's bytes or of where it came
from: comments, the order of lines, line breaks, index addresses and file names leave it unchanged; a
version, a hash, a marker, the Python or the platform change it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

IDENTITY_PREFIX = "env-"


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One pinned package. `hashes` name the files that may be installed (`sha256:...`), or what was."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()
    marker: str = ""
    """When it is installed at all, in the words of PEP 508; empty is always."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python, a platform and pinned packages. Build one with `identify`."""

    identity: str
    """`env-` and 32 hexadecimal digits."""
    python: str
    """Implementation and minor version, such as `cpython-3.11`."""
    platform: str
    """System and machine, such as `linux-x86_64`."""
    packages: tuple[Package, ...]

    def package(self, name: str) -> Package | None:
        """The package of this name (spelt in any way), or `None`."""
        wanted = canonical_name(name)
        return next((package for package in self.packages if package.name == wanted), None)


def canonical_name(name: str) -> str:
    """The one spelling of a package's name.

    >>> canonical_name("Scikit_Learn"), canonical_name("zope.interface")
    ('scikit-learn', 'zope-interface')
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def identify(*, python: str, platform: str, packages: Iterable[Package]) -> Environment:
    """The environment of these packages, with its identity.

    >>> a = Package("NumPy", "2.4.6", ("sha256:bb", "sha256:aa"))
    >>> b = Package("numpy", "2.4.6", ("sha256:aa", "sha256:bb"))
    >>> one, two = (identify(python="cpython-3.11", platform="linux-x86_64", packages=[p]) for p in (a, b))
    >>> one == two, len(one.identity)
    (True, 36)
    """
    canonical = tuple(
        sorted(
            {
                Package(
                    canonical_name(package.name),
                    package.version.strip(),
                    tuple(sorted(set(package.hashes))),
                    canonical_marker(package.marker),
                )
                for package in packages
            }
        )
    )
    # Unit and record separators cannot occur in a name, a version or a marker: no two lists collide.
    lines = [
        "\x1f".join((package.name, package.version, package.marker, *package.hashes)) for package in canonical
    ]
    body = "\x1e".join(("fourfold-environment-1", python, platform, *lines))
    digest = hashlib.sha256(body.encode()).hexdigest()[:32]
    return Environment(IDENTITY_PREFIX + digest, python, platform, canonical)


def canonical_marker(marker: str) -> str:
    """A marker with one kind of quote and single spaces (tools rewrite both freely).

    >>> canonical_marker('python_version<"3.12"  and  os_name == "posix"')
    "python_version < '3.12' and os_name == 'posix'"
    """
    spaced = re.sub(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*", r" \1 ", marker.replace('"', "'"))
    return " ".join(spaced.split())
