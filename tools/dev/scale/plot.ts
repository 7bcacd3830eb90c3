/** Plots as SVG text: one panel for each figure, the size on a logarithmic x axis, zero at the bottom of each y axis. */

interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface Panel {
  readonly title: string;
  readonly unit: string;
  readonly lines: readonly Line[];
}

const PANEL = { width: 300, height: 190 };
const MARGIN = { left: 52, right: 20, top: 44, bottom: 32 };
const COLUMNS = 3;
const HEAD_HEIGHT = 56;
const COLOURS = ["#1f5fa8", "#c2571a"];

const INNER = {
  width: PANEL.width - MARGIN.left - MARGIN.right,
  height: PANEL.height - MARGIN.top - MARGIN.bottom,
};

const quoted = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** 1,000,000 as "1M", 0.1 as "0.1". */
function short(value: number): string {
  if (value >= 1e6) return `${value / 1e6}M`;
  return value >= 1000 ? `${value / 1000}k` : String(Number(value.toPrecision(3)));
}

/** The step between lines of the y axis: 1, 2 or 5 times a power of ten, three to six of them. */
function stepFor(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most / 3));
  return ([1, 2, 5, 10].find((factor) => most / (factor * power) <= 5) ?? 10) * power;
}

function text(x: number, y: number, words: string, style = ""): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${style}>${quoted(words)}</text>`;
}

function panel({ title, unit, lines }: Panel, xs: readonly number[]): string[] {
  const most = Math.max(...lines.flatMap(({ points }) => points.map(([, y]) => y)), 1e-9);
  const step = stepFor(most);
  const top = Math.ceil((most * 1.02) / step) * step;
  const [low, high] = [Math.log(Math.min(...xs)), Math.log(Math.max(...xs))];
  const atX = (x: number) => MARGIN.left + ((Math.log(x) - low) / (high - low || 1)) * INNER.width;
  const atY = (y: number) => MARGIN.top + INNER.height * (1 - y / top);
  const right = MARGIN.left + INNER.width;
  const parts = [text(MARGIN.left - 40, 24, `${title}, ${unit}`, ' font-weight="bold"')];
  for (let y = 0; y <= top + step / 2; y += step) {
    parts.push(
      `<line x1="${MARGIN.left}" x2="${right}" y1="${atY(y).toFixed(1)}" y2="${atY(y).toFixed(1)}" class="grid"/>`,
      text(MARGIN.left - 6, atY(y) + 4, short(y), ' text-anchor="end"'),
    );
  }
  for (const x of xs) parts.push(text(atX(x), PANEL.height - 14, short(x), ' text-anchor="middle"'));
  lines.forEach(({ name, points }, i) => {
    const colour = COLOURS[i % COLOURS.length];
    const places = points.map(([x, y]) => [atX(x).toFixed(1), atY(y).toFixed(1)] as const);
    parts.push(
      `<polyline points="${places.map((place) => place.join(",")).join(" ")}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      ...points.map(([x, y], at) => {
        const [cx, cy] = places[at] ?? ["0", "0"];
        const said = quoted(`${name}: ${Number(y.toPrecision(3))} ${unit} at ${short(x)}`);
        return `<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"><title>${said}</title></circle>`;
      }),
    );
  });
  return parts;
}

function legend(names: readonly string[], width: number): string[] {
  return names.flatMap((name, i) => {
    const x = width - 260 * (names.length - i);
    return [
      `<line x1="${x}" x2="${x + 24}" y1="22" y2="22" stroke="${COLOURS[i % COLOURS.length]}" stroke-width="2"/>`,
      text(x + 30, 26, name),
    ];
  });
}

/** All panels below a title. `xLabel`: what the sizes are of. */
export function plot(title: string, xLabel: string, panels: readonly Panel[]): string {
  const xs = [
    ...new Set(panels.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map(([x]) => x)))),
  ].sort((a, b) => a - b);
  const columns = Math.min(COLUMNS, panels.length);
  const width = columns * PANEL.width;
  const height = HEAD_HEIGHT + Math.ceil(panels.length / columns) * PANEL.height;
  const names = [...new Set(panels.flatMap(({ lines }) => lines.map(({ name }) => name)))];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
    `<title>${quoted(title)}</title>`,
    "<style>text{font-family:sans-serif;font-size:12px;fill:#333}.grid{stroke:#ddd}</style>",
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    text(12, 26, title, ' font-weight="bold"'),
    text(12, 46, `along the bottom: ${xLabel}`),
    ...(names.length > 1 ? legend(names, width) : []),
    ...panels.flatMap((one, i) => [
      `<g transform="translate(${(i % columns) * PANEL.width} ${HEAD_HEIGHT + Math.floor(i / columns) * PANEL.height})">`,
      ...panel(one, xs),
      "</g>",
    ]),
    "</svg>",
    "",
  ].join("\n");
}
