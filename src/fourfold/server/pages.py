"""The front page: where the doors are. It shows nothing of the project, so it needs no token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from fourfold.core.routes import PREFIX


@dataclass(frozen=True, slots=True)
class About:
    """What the front page and `/version` say."""

    version: str
    project: str = ""
    links: Mapping[str, str] = field(default_factory=dict)


PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "cache-control": "no-store",
}

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Fourfold</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto; padding: 0 1rem;
         color: #1c2330; background: #fbfaf7 }}
  code, pre {{ font: 14px/1.5 ui-monospace, monospace; background: #efece4; border-radius: 4px }}
  code {{ padding: .1em .3em }} pre {{ padding: .8em 1em; overflow-x: auto }}
  dt {{ font-weight: 600 }} dd {{ margin: 0 0 .6em 0 }}
</style>
<h1>Fourfold {version}</h1>
<p>Project <code>{project}</code> is up.</p>
<dl>{links}</dl>
<p>Every call but <code>/health</code> and <code>/version</code> needs a token; the owner's is in
<code>.fourfold/token</code>:</p>
<pre>curl -H "Authorization: Bearer $(cat .fourfold/token)" http://HOST:PORT{prefix}/flows/runs
export FOURFOLD_URL=http://HOST:PORT FOURFOLD_TOKEN=…   # then: fourfold flow ls</pre>
<p>All routes: <code>GET {prefix}/openapi.json</code>. In a terminal: <code>fourfold --help</code>.</p>
</html>
"""


def front_page(about: About) -> str:
    """The page, with nothing in it that anybody but us has written unescaped."""
    links = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(link)}</code></dd>"
        for name, link in sorted(about.links.items())
    )
    return _PAGE.format(
        version=escape(about.version), project=escape(about.project or "default"), links=links, prefix=PREFIX
    )
