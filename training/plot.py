"""Loss curves of a training log as an SVG, with nothing but the standard library.

  python3 plot.py logs/nano.jsonl curves.svg
"""
import json
import sys

W, H, PAD = 860, 420, 60
SERIES = (("loss", "#1f5fa8", "next token"), ("mtp_loss", "#c2571a", "MTP draft"))


def smooth(values, n=7):
    """Running mean over n rows."""
    half = n // 2
    return [sum(v) / len(v) for v in (values[max(0, i - half):i + half + 1] for i in range(len(values)))]


def main():
    rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
    xs = [r["tokens"] / 1e6 for r in rows]
    top = 3.0
    sx = lambda x: PAD + x / xs[-1] * (W - 2 * PAD)
    sy = lambda y: H - PAD - min(y, top) / top * (H - 2 * PAD)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{W}" height="{H}" font-family="sans-serif" font-size="12">',
           f'<rect width="{W}" height="{H}" fill="white"/>']
    for i in range(7):
        y = i * top / 6
        out.append(f'<path d="M{PAD} {sy(y):.1f}H{W - PAD}" stroke="#ddd"/>'
                   f'<text x="{PAD - 8}" y="{sy(y) + 4:.1f}" text-anchor="end">{y:.1f}</text>')
    for x in range(0, int(xs[-1]) + 1, 100):
        out.append(f'<text x="{sx(x):.1f}" y="{H - PAD + 18}" text-anchor="middle">{x}</text>')
    starts = [i for i, r in enumerate(rows) if i == 0 or r["length"] != rows[i - 1]["length"]]
    for i, after in zip(starts, [*starts[1:], len(rows) - 1]):
        x, length = xs[i], rows[i]["length"]
        left = sx(xs[after]) - sx(x) < 110                 # no room for the label on the right
        out.append(f'<path d="M{sx(x):.1f} {PAD}V{H - PAD}" stroke="#999" stroke-dasharray="4 3"/>'
                   f'<text x="{sx(x) + (-4 if left else 4):.1f}" y="{PAD - (20 if left else 6)}" '
                   f'text-anchor="{"end" if left else "start"}">windows of {length}</text>')
    ramp = [x for r, x in zip(rows, xs) if 0 < r["share"] < 1]
    if ramp:
        out.append(f'<rect x="{sx(ramp[0]):.1f}" y="{PAD}" width="{sx(ramp[-1]) - sx(ramp[0]):.1f}" '
                   f'height="{H - 2 * PAD}" fill="#f3e3b0" opacity="0.6"/>'
                   f'<text x="{sx(ramp[0]) + 4:.1f}" y="{PAD + 28}">4-bit experts fade in</text>')
    for k, (key, colour, label) in enumerate(SERIES):
        points = " ".join(f"{sx(x):.1f},{sy(y):.1f}" for x, y in zip(xs, smooth([r[key] for r in rows])))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
                   f'<text x="{W / 2}" y="{PAD + 14 + 16 * k}" fill="{colour}">{label}</text>')
    out.append(f'<text x="{W / 2}" y="{H - 16}" text-anchor="middle">million tokens</text>'
               f'<text x="16" y="{H / 2}" transform="rotate(-90 16 {H / 2})" text-anchor="middle">'
               'weighted loss, nats per token (mean of 7 rows)</text></svg>')
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
