"""What a pool's address says of a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from fourfold.core.errors import Refused, did_you_mean

DEFAULT_PORT = 8265
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - a variable's name
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 - a variable's name
EXAMPLE = "ray://head.example:8265"


@dataclass(frozen=True, slots=True)
class RaySettings:
    """Where a cluster's Jobs API is, and what is asked of it.

    >>> RaySettings.parse("ray://head:8265?most_jobs=20").url
    'http://head:8265'
    >>> RaySettings.parse("ray+https://head").url
    'https://head:8265'
    >>> RaySettings.parse("ray://head?tokenfile=x")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: 'tokenfile' is not known in the address 'ray://head?tokenfile=x'
      did you mean 'token_file'?
      known: ended_kept_s, grace_s, most_jobs, most_output_bytes, python, ray_python, shares_files, \
timeout_s, token_env, token_file
    """

    url: str
    token_env: str = ""
    """The environment variable that holds the token; empty: as Ray itself finds it (`token`)."""
    token_file: str = ""
    """A file that holds the token and nothing else."""
    python: str = "python3"
    """Starts our keeper on a node: Python 3.10 or newer, no library."""
    ray_python: str = "python3"
    """Starts what needs the `ray` library on a node: launches of several nodes."""
    most_jobs: int = 100
    """Jobs at once. Ray holds a process of about 85 MB for each, whatever it does."""
    grace_s: float = 30.0
    """What a stopped job gets when we are gone before its own grace is over."""
    most_output_bytes: int = 256 << 20
    """So much of a job's output is kept; more is counted and left out."""
    ended_kept_s: float = 7 * 86400.0
    """How long the cluster keeps what ended."""
    shares_files: bool = False
    """Whether the nodes see this machine's files under the same paths."""
    timeout_s: float = 15.0
    """The longest that an answer is waited for."""

    @classmethod
    def parse(cls, address: str) -> RaySettings:
        """Read `ray://host:port?name=value`, or `ray+https://…`."""
        parts = urlsplit(address)
        try:
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            raise Refused(f"the address '{address}' has no such port", ways_on=[EXAMPLE]) from error
        if parts.username or parts.password:
            raise Refused(
                f"the address of the Ray cluster at {parts.hostname} holds a token or a password",
                ways_on=[
                    f"take it out, and set {TOKEN}",
                    f"or name its place: {EXAMPLE}?token_env=NAME, {EXAMPLE}?token_file=PATH",
                ],
            )
        if parts.scheme not in ("ray", "ray+http", "ray+https") or not parts.hostname:
            raise Refused(f"'{address}' is not the address of a Ray cluster", ways_on=[f"write {EXAMPLE}"])
        scheme = "https" if parts.scheme == "ray+https" else "http"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        asked = {
            name: _read(name, text, address) for name, text in parse_qsl(parts.query, keep_blank_values=True)
        }
        return cls(f"{scheme}://{host}:{port}{parts.path.rstrip('/')}", **asked)  # type: ignore[arg-type]

    def token(self, environ: Mapping[str, str]) -> str:
        """The token as it is now; empty where none is to be found.

        Without `token_env` and `token_file` it is looked for where Ray's own client does.
        """
        if self.token_env:
            if not (found := environ.get(self.token_env, "").strip()):
                raise Refused(
                    f"the variable {self.token_env}, which is to hold the token of {self.url}, is not set",
                    ways_on=[f"export {self.token_env}=…"],
                )
            return found
        if self.token_file:
            return self._token_in(Path(self.token_file))
        if TOKEN in environ:
            return environ[TOKEN].strip()
        if TOKEN_PATH in environ:
            return self._token_in(Path(environ[TOKEN_PATH]))
        default = Path(environ.get("HOME", "/")) / ".ray" / "auth_token"
        return self._token_in(default) if default.is_file() else ""

    def _token_in(self, path: Path) -> str:
        try:
            return path.expanduser().read_text().strip()
        except OSError as error:
            raise Refused(
                f"the file {path}, which is to hold the token of {self.url}, cannot be read: {error.strerror}"
            ) from error


_KINDS: dict[str, type] = {
    "token_env": str,
    "token_file": str,
    "python": str,
    "ray_python": str,
    "most_jobs": int,
    "grace_s": float,
    "most_output_bytes": int,
    "ended_kept_s": float,
    "shares_files": bool,
    "timeout_s": float,
}


def _read(name: str, text: str, address: str) -> object:
    kind = _KINDS.get(name)
    if kind is None:
        raise Refused(f"'{name}' is not known in the address '{address}'", ways_on=did_you_mean(name, _KINDS))
    if kind is bool:
        if text in ("0", "1"):
            return text == "1"
        raise Refused(f"{name} in the address '{address}' is '{text}'; it takes 0 or 1")
    if kind is str:
        return text
    try:
        value = float(text) if kind is float else int(text)
    except ValueError as error:
        raise Refused(f"{name} in the address '{address}' is '{text}'; it takes a number") from error
    if not value > 0:
        raise Refused(f"{name} in the address '{address}' is {text}; it is above 0")
    return value
