"""Style of the page of an evaluated suite and of two side by side, on top of what all our pages share (eval/pages/page.py)."""

from eval.trying.overlay import MODEL, TRUTH

STYLE = (
    f":root {{ --truth: {TRUTH}; --said: {MODEL}; }}"
    + """
body { max-width: 86rem; } section { min-width: 0; } h3 { font-size: 1rem; margin: 1rem 0 .4rem; } h4 { font-size: .78rem; font-weight: 600; color: var(--soft); margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; } a { color: var(--link); } summary { cursor: pointer; color: var(--link); width: fit-content; }
summary h2 { display: inline-block; color: var(--ink); margin: 1.6rem 0 .5rem; } details .pairs { margin: .5rem 0; } summary:focus-visible { outline-offset: 3px; }
.banner { border-left: 4px solid var(--doubt); background: var(--raised); padding: .5rem .9rem; max-width: 60rem; }
button, select, input[type=search] { font: inherit; color: inherit; background: var(--ground); border: 1px solid var(--edge); border-radius: 5px; padding: .2rem .55rem; }
:root { --edge: #85858f; } button { cursor: pointer; } button:hover { background: var(--raised); } input[type=checkbox] { accent-color: var(--link); }

.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 1rem; margin-top: 1.2rem; }
.score { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1.1rem; } .score h2 { margin: 0; font-size: 1rem; } .score .note { margin: .4rem 0 0; }
.score .value { font-size: 2rem; font-weight: 650; margin: .1rem 0; font-variant-numeric: tabular-nums; } .score .floors { margin: .3rem 0; font-size: .85rem; } .score code { white-space: nowrap; }
.whiskers { display: inline-block; width: 8rem; height: 16px; overflow: visible; margin: 0 6px; } .score .whiskers { width: calc(100% - 12px); } .whiskers:empty { visibility: hidden; } td:has(> .whiskers) { vertical-align: middle; line-height: 0; } .tables .whiskers { width: 5.5rem; }
.axis { stroke: var(--line); } .interval { stroke: var(--link); stroke-width: 3; } .dot { fill: var(--link); } .blank { fill: var(--ground); stroke: var(--ink); stroke-width: 1.5; }
.floor { stroke: var(--ink); stroke-width: 2; } .reference { stroke: var(--soft); opacity: .55; stroke-dasharray: 2 2; }
td.strong { font-weight: 650; } .bar-and-number { display: inline-flex; align-items: center; gap: .5rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tables { display: flex; flex-wrap: wrap; gap: .4rem 2.4rem; } .tables section { max-width: 100%; } .tables .scroll { max-height: 26rem; } .tables .scroll:has(tbody tr:nth-child(13)) { scrollbar-gutter: stable; } .tables td, .tables tbody th { vertical-align: middle; } tbody th { max-width: 18rem; overflow-wrap: anywhere; }
.pairs { border: 1px solid var(--line); border-radius: 6px; width: auto; max-width: 100%; } .pairs td { overflow-wrap: anywhere; } .pairs th { overflow-wrap: break-word; } .pairs tr:first-child > * { border-top: 0; } .pairs tbody th { position: static; background: none; }

.shares { width: 100%; height: .8rem; border-radius: 4px; display: block; } .shares .good { fill: var(--good); } .shares .doubt { fill: var(--doubt); } .shares .bad { fill: var(--alert); } .shares .none { fill: var(--soft); }
.shares .one, .shares .other { fill: var(--link); } .shares .other { opacity: .55; } .shares rect { stroke: var(--ground); stroke-width: 2; }
.tally { list-style: none; padding: 0; margin: .5rem 0; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; font-variant-numeric: tabular-nums; }
.badge { font-weight: 600; white-space: nowrap; } .badge.good { color: var(--good); } .badge.doubt { color: var(--doubt); } .badge.bad { color: var(--alert); } .badge.none { color: var(--soft); } .badge.one, .badge.other { color: var(--link); }
.good { --of: var(--good); } .doubt { --of: var(--doubt); } .bad { --of: var(--alert); } .none { --of: var(--soft); } .one, .other { --of: var(--link); }

#filters { border: 1px solid var(--line); border-radius: 8px; background: var(--raised); padding: .5rem .9rem .7rem; margin: 1rem 0; font-size: .88rem; } #filters[hidden] { display: none; }
#filters fieldset, .bar fieldset { border: 0; padding: 0; margin: 0 2rem .3rem 0; display: inline-flex; flex-wrap: wrap; align-items: center; gap: .2rem 1.1rem; min-width: 0; } #filters legend { float: left; color: var(--soft); padding: 0; margin-right: 1rem; }
.fields { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1.2rem; } .fields label { color: var(--soft); display: inline-flex; align-items: center; gap: .4rem; max-width: 100%; } .fields select, .fields input { color: var(--ink); min-width: 0; max-width: 16rem; }
#count { font-weight: 600; margin-left: auto; } label:has(input[type=checkbox]) { cursor: pointer; white-space: nowrap; display: inline-flex; align-items: center; gap: .3rem; } input[type=checkbox] { margin: 0; }
label.truth::after, label.said::after { content: ""; display: inline-block; width: 1.1rem; border-top: 3px solid var(--truth); margin-left: .35rem; vertical-align: middle; } label.said::after { border-top: 3px dashed var(--said); }

.case { border: 1px solid var(--line); border-left: 5px solid var(--of); border-radius: 8px; margin: 0 0 1rem; padding: .9rem; display: grid; grid-template-columns: minmax(12rem, 23rem) 1fr; gap: 1.2rem; }
.case[hidden] { display: none; } #cards > .case { content-visibility: auto; contain-intrinsic-size: auto 26rem; } .case > .told:only-child { grid-column: 1 / -1; } .told { min-width: 0; } .told > :first-child { margin-top: 0; } .told > p:last-child { margin-bottom: 0; }
.case h3 { margin: .3rem 0 .8rem; overflow-wrap: anywhere; } .head { margin: 0; display: flex; flex-wrap: wrap; gap: .1rem .9rem; align-items: baseline; overflow-wrap: anywhere; }
.enlarge { all: unset; display: block; width: 100%; cursor: zoom-in; border-radius: 6px; background: #000; overflow: hidden; line-height: 0; } .enlarge:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.picture { width: 100%; max-height: 26rem; display: block; } .store { position: absolute; }
.picture rect { fill: none; vector-effect: non-scaling-stroke; } .rim { stroke: #000; stroke-opacity: .65; stroke-width: 4.5; } .line { stroke-width: 2.2; } .truth .line { stroke: var(--truth); } .said .line { stroke: var(--said); stroke-dasharray: 7 4; }
.picture text { font-weight: 700; fill: var(--truth); stroke: #000; stroke-width: 3; paint-order: stroke; vector-effect: non-scaling-stroke; } .picture .said text { fill: var(--said); }
.no-truth .picture .truth, .no-said .picture .said { display: none; }
.both { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr)); gap: .6rem 1.4rem; } .passage { min-width: 0; margin: 0 0 .6rem; } .passage p { margin: .1rem 0; white-space: pre-line; overflow-wrap: anywhere; max-width: 46rem; }
.passage p[tabindex] { max-height: 14rem; overflow: auto; padding-right: .5rem; } .true p, .model p { font-weight: 600; } .silent p { font-style: italic; font-weight: 400; color: var(--soft); } .long p { font-weight: 400; }
.values { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0; font-size: .85rem; } .values div { display: flex; gap: .4rem; min-width: 0; } .values dt { color: var(--soft); overflow-wrap: anywhere; } .values dd { margin: 0; font-variant-numeric: tabular-nums; font-weight: 600; }
.told details { font-size: .85rem; margin: .3rem 0; }
.case:has(.pair) { grid-template-columns: minmax(0, 1fr); } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem 1.4rem; } .pair .told { grid-column: 1 / -1; } .pair .side { min-width: 0; } .side > h4 { margin-bottom: .3rem; overflow-wrap: anywhere; } .side .badge { white-space: normal; } .side .enlarge { margin-bottom: .6rem; }

dialog { border: 0; border-radius: 10px; padding: 0; color: var(--ink); background: var(--ground); width: min(96vw, 96rem); max-width: none; height: 94vh; max-height: none; flex-direction: column; } dialog[open] { display: flex; } dialog::backdrop { background: #000a; }
.bar { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1.1rem; padding: .6rem .9rem; border-bottom: 1px solid var(--line); font-size: .9rem; } #place { min-width: 4.5rem; text-align: center; } #close { margin-left: auto; }
#large { overflow: auto; padding: .9rem; flex: 1; min-height: 0; } #large .case { border-width: 0 0 0 5px; margin: 0; grid-template-columns: minmax(0, 1.5fr) minmax(18rem, 1fr); } #large .case:has(.pair) { grid-template-columns: minmax(0, 1fr); }
#large .enlarge { cursor: zoom-out; } #large .picture { max-height: 82vh; } #large .pair .picture { max-height: 62vh; }

@media (max-width: 46rem) { body { margin: .8rem auto; padding: 0 .8rem; } .case, #large .case { grid-template-columns: minmax(0, 1fr); padding: .7rem; } .tables { flex-direction: column; } tbody th { position: static; }
  .pair { gap: .6rem .7rem; } dialog { width: 100vw; height: 100vh; border-radius: 0; } #large { padding: .3rem; } #large .picture { max-height: 60vh; } .fields label { flex: 1 1 100%; } .fields select, .fields input { flex: 1 1 0; width: 0; max-width: none; } }
@media (min-width: 46.01rem) and (min-height: 44rem) { #filters { position: sticky; top: 0; z-index: 3; } .case, .enlarge { scroll-margin-top: 8rem; } }
@media screen and (prefers-color-scheme: dark) { :root { --edge: #71717d; } }
@media print { :root, body { font-size: 11px; } body { max-width: none; margin: 0; } #filters, nav, dialog, .reset { display: none !important; } .case, .score, tr { break-inside: avoid; } #cards > .case { content-visibility: visible; } .scroll, .passage p[tabindex] { max-height: none; overflow: visible; }
  .case { grid-template-columns: 18rem 1fr; } .whiskers, .tables .whiskers { width: 4rem; } .shares rect, .rim, .line, .enlarge { print-color-adjust: exact; } }
"""
)
