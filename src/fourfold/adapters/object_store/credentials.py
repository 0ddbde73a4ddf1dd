"""What Amazon's shared files say: `~/.aws/credentials` and `~/.aws/config`.

`obstore` finds keys in environment variables, web identities, and the roles of containers and instances,
but does not read these files. A profile of them is used when the environment holds no keys.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core.errors import Refused, did_you_mean

if TYPE_CHECKING:
    from obstore.store import S3Credential

PROCESS_TIMEOUT_S = 60
_IN_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")


def profile(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings of the chosen profile, those of the credentials file over those of the config file."""
    name = environ.get("AWS_PROFILE") or "default"
    home = Path(environ.get("HOME") or "~").expanduser() / ".aws"
    config = _sections(Path(environ.get("AWS_CONFIG_FILE") or home / "config"))
    secret = _sections(Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"))
    found = {**config.get("default" if name == "default" else f"profile {name}", {}), **secret.get(name, {})}
    if not found and environ.get("AWS_PROFILE"):
        known = {each.removeprefix("profile ") for each in config} | set(secret)
        raise Refused(
            f"AWS_PROFILE names the profile '{name}', which no file of {home} has",
            ways_on=did_you_mean(name, known, what="profiles"),
        )
    if any(environ.get(each) for each in _IN_ENVIRONMENT):  # these win, as everywhere
        return {each: found[each] for each in ("region", "endpoint_url") if each in found}
    if "aws_access_key_id" not in found and "credential_process" not in found:
        for indirect in ("sso_session", "sso_start_url", "role_arn"):
            if indirect in found:
                raise Refused(
                    f"the AWS profile '{name}' takes its keys by way of '{indirect}', not followed here",
                    ways_on=[
                        f'run: eval "$(aws configure export-credentials --profile {name} --format env)"',
                        "or name a profile that has keys or a credential_process",
                    ],
                )
    return found


class CredentialProcess:
    """Keys from a profile's `credential_process`, asked again when they expire."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __call__(self) -> S3Credential:
        try:
            done = subprocess.run(
                shlex.split(self._command), capture_output=True, timeout=PROCESS_TIMEOUT_S, check=True
            )
            answer = json.loads(done.stdout)
            expires = answer.get("Expiration")
            return {
                "access_key_id": answer["AccessKeyId"],
                "secret_access_key": answer["SecretAccessKey"],
                "token": answer.get("SessionToken"),
                "expires_at": datetime.fromisoformat(expires) if expires else None,
            }
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            # Never the command's output: it may hold a secret.
            program = self._command.partition(" ")[0]
            raise Refused(
                f"the AWS profile's credential_process gave no keys ({type(error).__name__})",
                ways_on=[f"run '{program}' by hand and look at what it says"],
            ) from None


def _sections(path: Path) -> dict[str, dict[str, str]]:
    parser = ConfigParser(interpolation=None, default_section="\0")
    try:
        parser.read(path, encoding="utf-8")
    except (ConfigError, UnicodeDecodeError) as error:
        raise Refused(f"{path} cannot be read as AWS's settings: {type(error).__name__}") from None
    return {name: dict(parser[name]) for name in parser.sections()}
