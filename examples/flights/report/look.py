"""How the page looks. In a module, because a flow's bundle holds modules only."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b1d22; --muted: #656b76; --line: #dfe2e8; --paper: #ffffff; --wash: #f5f6f8;
  --blue: #2a62c9; --orange: #b4600d; --green: #18794e; --red: #c22f3d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e7e9ee; --muted: #979eab; --line: #333842; --paper: #15171c; --wash: #1d2027;
    --blue: #7aa5f5; --orange: #e39a4d; --green: #57b98a; --red: #f07a84;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.015em; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 3.6rem 0 .4rem; letter-spacing: -.01em; }
p { margin: .5rem 0; max-width: 44rem; }
.lead { font-size: 1.06rem; color: var(--muted); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .75rem;
  margin: 1.8rem 0 0;
}
.tile {
  background: var(--wash); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem .95rem;
}
.tile b {
  display: block; white-space: nowrap; font-size: 1.25rem; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums;
}
.tile span { color: var(--muted); font-size: .84rem; line-height: 1.3; display: block; }
.good b { color: var(--green); } .bad b { color: var(--red); }
figure { margin: 1.2rem 0 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit; }
figcaption { color: var(--muted); font-size: .9rem; margin-top: .6rem; max-width: 44rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2rem; align-items: start; }
@media (max-width: 46rem) { .pair { grid-template-columns: 1fr; } }
.wide { overflow-x: auto; }
table {
  border-collapse: collapse; width: 100%; font-size: .87rem; margin-top: 1rem;
  font-variant-numeric: tabular-nums;
}
th {
  text-align: left; color: var(--muted); font-weight: 500; border-bottom: 1px solid var(--line);
  padding: .35rem .6rem .35rem 0;
}
td { border-bottom: 1px solid var(--line); padding: .35rem .6rem .35rem 0; vertical-align: top; }
th.n, td.n { text-align: right; white-space: nowrap; }
td.name { white-space: nowrap; }
td.words { color: var(--muted); }
.meter {
  display: inline-block; width: 3rem; height: .5rem; background: var(--line); border-radius: .25rem;
  overflow: hidden; margin-right: .5rem;
}
.meter i { display: block; height: 100%; background: var(--blue); }
code {
  font: .88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: var(--wash);
  padding: .1em .35em; border-radius: .3em;
}
.graph .box rect { fill: var(--wash); stroke: var(--line); }
.graph .box rect.share { fill: var(--blue); stroke: none; }
.graph .cached rect { stroke-dasharray: 4 3; } .graph .cached rect.share { fill: none; }
.graph text { text-anchor: middle; fill: var(--ink); font-size: 13px; }
.graph .took { fill: var(--muted); font-size: 11.5px; }
.graph .edge { fill: none; stroke: var(--muted); stroke-opacity: .55; stroke-width: 1.3; }
footer {
  margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted);
  font-size: .87rem;
}
"""
