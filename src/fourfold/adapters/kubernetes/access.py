"""Where a cluster's API is and who we are there: by a kubeconfig as `kubectl` reads it, or inside a pod."""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fourfold.adapters.kubernetes.settings import KubernetesSettings
from fourfold.core.errors import Missing, NotFound, Refused, Unauthenticated, did_you_mean

INSIDE = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_WITHIN_S = 60.0
TOKEN_FRESH_S = 30.0
"""A token's file is read anew so often: clusters rotate them."""
BEFORE_END_S = 30.0
"""A credential is asked for anew so long before it ends."""
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
SHOWN_CHARACTERS = 400


class Access:
    """A cluster's address, and credentials that may change while we run. Thread-safe."""

    def __init__(
        self, cluster: Mapping[str, Any], user: Mapping[str, Any], namespace: str, folder: Path
    ) -> None:
        """`folder` is what relative paths begin at: that of the kubeconfig."""
        self.url = str(cluster.get("server") or "").rstrip("/")
        self.namespace = namespace
        self.server_name = str(cluster.get("tls-server-name") or "")
        self._cluster, self._user, self._folder = cluster, user, folder
        self._lock = threading.Lock()
        self._token, self._token_until = "", 0.0
        self._context: ssl.SSLContext | None = None
        self._check()

    def _check(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"the kubeconfig names '{self.url}', which is no address of a cluster")
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise Refused(
                f"the cluster at {self.url} speaks no TLS, and is not this machine",
                ways_on=[
                    "use its https:// address",
                    "or `kubectl proxy`, which listens on this machine only",
                ],
            )
        if self._cluster.get("insecure-skip-tls-verify"):
            raise Refused(
                f"the kubeconfig turns off the check of {self.url}'s certificate",
                ways_on=["take insecure-skip-tls-verify out, and name the cluster's certificate-authority"],
            )
        if self._cluster.get("proxy-url"):
            raise Refused(f"the kubeconfig reaches {self.url} by a proxy (proxy-url), which is not done here")

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https:")

    def tls(self) -> ssl.SSLContext:
        """What connections are secured with; the server's certificate is always verified."""
        with self._lock:
            if self._context is None:
                self._context = self._secured(self._user)
            return self._context

    def _secured(self, user: Mapping[str, Any]) -> ssl.SSLContext:
        authority = self._bytes(self._cluster, "certificate-authority")
        try:
            context = ssl.create_default_context(cadata=None if authority is None else authority.decode())
        except (ssl.SSLError, ValueError) as error:
            raise Refused(f"the certificate-authority of {self.url} cannot be read: {error}") from error
        certificate, key = self._bytes(user, "client-certificate"), self._bytes(user, "client-key")
        if certificate and key:
            with ExitStack() as held:
                names = []
                for data in (certificate, key):  # the library reads files only; ours are this user's alone
                    file = held.enter_context(tempfile.NamedTemporaryFile())
                    file.write(data)
                    file.flush()
                    names.append(file.name)
                try:
                    context.load_cert_chain(*names)
                except ssl.SSLError as error:
                    raise Refused(f"the client certificate for {self.url} cannot be used: {error}") from error
        return context

    def token(self) -> str:
        """The bearer token as it is now; empty where a certificate speaks for us."""
        with self._lock:
            if time.time() < self._token_until:
                return self._token
            user = self._user
            if file := user.get("tokenFile"):
                self._token = self._read(str(file)).decode().strip()
                self._token_until = time.time() + TOKEN_FRESH_S
            elif user.get("token"):
                self._token, self._token_until = str(user["token"]), float("inf")
            elif user.get("exec"):
                self._ask(user["exec"])
            elif user.get("auth-provider") or user.get("username"):
                what = "auth-provider" if user.get("auth-provider") else "username"
                raise Refused(
                    f"the kubeconfig's user for {self.url} has `{what}`, which clusters no longer take",
                    ways_on=["use a token, a client certificate or an exec plugin"],
                )
            else:
                self._token_until = float("inf")
            return self._token

    def forget(self) -> None:
        """The cluster did not take the credential: ask for another before the next call."""
        with self._lock:
            self._token_until = 0.0

    def _ask(self, plugin: Mapping[str, Any]) -> None:
        """Run the kubeconfig's credential plugin."""
        version, command = str(plugin.get("apiVersion") or ""), str(plugin.get("command") or "")
        if version not in EXEC_VERSIONS:
            raise Refused(
                f"the credential plugin speaks '{version}'", ways_on=["known: " + ", ".join(EXEC_VERSIONS)]
            )
        if "/" in command:
            command = str(self._folder / command)
        more = {each["name"]: each["value"] for each in plugin.get("env") or ()}
        asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
        if plugin.get("provideClusterInfo"):
            asked["spec"]["cluster"] = {"server": self.url}  # type: ignore[index]
        environment = {**os.environ, **more, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
        try:
            done = subprocess.run(
                [command, *(plugin.get("args") or ())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                timeout=EXEC_WITHIN_S,
                check=False,
            )
        except OSError as error:
            hint = str(plugin.get("installHint") or "").strip()
            raise Missing(
                f"the credential plugin '{command}' cannot be started: {error.strerror}",
                ways_on=[hint[:SHOWN_CHARACTERS]] if hint else [],
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Unauthenticated(
                f"the credential plugin '{command}' took over {EXEC_WITHIN_S:g} s"
            ) from error
        said = done.stderr.decode(errors="replace").strip()[-SHOWN_CHARACTERS:]
        try:
            status = json.loads(done.stdout)["status"] if done.returncode == 0 else None
        except (ValueError, KeyError, TypeError):
            status = None
        if not isinstance(status, dict):
            raise Unauthenticated(
                f"the credential plugin '{command}' gave no credential (status {done.returncode}): {said}",
                ways_on=["run it by hand, and sign in as it asks"],
            )
        self._token = str(status.get("token") or "")
        if status.get("clientCertificateData"):
            self._context = self._secured(
                {
                    "client-certificate-data": _encoded(status["clientCertificateData"]),
                    "client-key-data": _encoded(status.get("clientKeyData") or ""),
                }
            )
        until = status.get("expirationTimestamp")
        try:
            ends = datetime.fromisoformat(until).timestamp() if until else float("inf")
        except ValueError:
            ends = time.time() + TOKEN_FRESH_S
        self._token_until = ends - BEFORE_END_S if until else ends

    def _bytes(self, of: Mapping[str, Any], name: str) -> bytes | None:
        if data := of.get(f"{name}-data"):
            try:
                return base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError) as error:
                raise Refused(f"{name}-data in the kubeconfig is no base64") from error
        return self._read(str(of[name])) if of.get(name) else None

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise Refused(f"{path}, which the kubeconfig names, cannot be read: {error.strerror}") from error


def access_to(settings: KubernetesSettings, environ: Mapping[str, str]) -> Access:
    """The cluster that an address means: by its kubeconfig, else by `KUBECONFIG`, else by `~/.kube/config`,
    else the one whose pod we are."""
    if settings.kubeconfig:
        paths = [Path(settings.kubeconfig).expanduser()]
    elif "KUBECONFIG" in environ:
        paths = [Path(each) for each in environ["KUBECONFIG"].split(os.pathsep) if each]
    else:
        paths = [Path(environ.get("HOME", "/")) / ".kube" / "config"]
    there = [path for path in paths if path.is_file()]
    if there:
        return _by_kubeconfig(there, settings)
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (INSIDE / "token").is_file() and not settings.kubeconfig and not settings.context:
        host = f"[{host}]" if ":" in host else host
        cluster = {"server": f"https://{host}:{port}", "certificate-authority": str(INSIDE / "ca.crt")}
        namespace = settings.namespace or (INSIDE / "namespace").read_text().strip()
        return Access(cluster, {"tokenFile": str(INSIDE / "token")}, namespace, INSIDE)
    raise Refused(
        f"there is no kubeconfig at {', '.join(map(str, paths))}",
        ways_on=["set KUBECONFIG", "or add kubeconfig=/path/to/file to the pool's address"],
    )


def _by_kubeconfig(paths: list[Path], settings: KubernetesSettings) -> Access:
    found: dict[str, dict[str, tuple[Mapping[str, Any], Path]]] = {
        "clusters": {},
        "users": {},
        "contexts": {},
    }
    current = settings.context
    for path in paths:  # of two with one name the first counts
        config = _parsed(path)
        current = current or str(config.get("current-context") or "")
        for kind, known in found.items():
            for row in config.get(kind) or ():
                known.setdefault(str(row.get("name")), (row.get(kind[:-1]) or {}, path.parent))
    if current not in found["contexts"]:
        raise NotFound(
            f"the kubeconfig has no context '{current}'"
            if current
            else "the kubeconfig has no current context",
            ways_on=[
                *did_you_mean(current, found["contexts"], what="contexts"),
                "add context=NAME to the address",
            ],
        )
    context, _ = found["contexts"][current]
    cluster, folder = found["clusters"].get(str(context.get("cluster")), ({}, Path()))
    user, own = found["users"].get(str(context.get("user")), ({}, folder))
    namespace = settings.namespace or str(context.get("namespace") or "default")
    if own != folder:  # each file's paths begin at its own folder
        paths_of = ("client-certificate", "client-key", "tokenFile")
        user = {**user, **{name: str(own / str(user[name])) for name in paths_of if user.get(name)}}
    return Access(cluster, user, namespace, folder)


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"the kubeconfig {path} cannot be read: {error}") from error
    try:
        config = json.loads(text)  # which is YAML too, and needs no library
    except ValueError:
        try:
            import yaml  # type: ignore[import-untyped]
        except ImportError as error:
            raise Missing(
                "reading a kubeconfig needs pyyaml, which is not installed",
                ways_on=['pip install "fourfold[kubernetes]"'],
            ) from error
        try:
            config = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise Refused(f"the kubeconfig {path} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise Refused(f"{path} is no kubeconfig")
    return config


def _encoded(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()
