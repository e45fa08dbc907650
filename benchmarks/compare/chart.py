#!/usr/bin/env python3
"""Draws what ebb_compare has measured: bars of medians, as SVG, with nothing but Python itself.

    chart.py results.json chart.svg [WORD...]

Cases whose names hold all the words are drawn; without words, those of two threads.
"""
import html
import json
import statistics
import sys

BAR, GAP, LEFT, WIDTH = 16, 22, 330, 420
COLOURS = {"ebb": "#1f5fa8", "ebb batched": "#5b9bd5", "ceiling": "#c9c9c9"}


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)
    words = sys.argv[3:] or ["2 threads"]
    cases = [case for case in results["cases"] if all(word in case["case"] for word in words)]
    if not cases:
        sys.exit("chart.py: no case holds " + " and ".join(words))

    parts, y = [], 30
    for case in cases:
        medians = {name: statistics.median(rates) for name, rates in case["per_second"].items()}
        most = max(medians.values())
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{html.escape(case["case"])}</text>')
        y += 8
        for name, rate in sorted(medians.items(), key=lambda item: -item[1]):
            width = max(1.0, WIDTH * rate / most)
            colour = COLOURS.get(name, "#9a9a9a")
            parts.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">'
                         f'{html.escape(name)}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" '
                         f'fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 12}">'
                         f'{rate / 1e6:.3g} M/s</text>')
            y += BAR
        y += GAP
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 110}" '
                   f'height="{y}"\n font-family="sans-serif" font-size="12">\n'
                   '<rect width="100%" height="100%" fill="white"/>\n')
        file.write("\n".join(parts) + "\n</svg>\n")


main()
