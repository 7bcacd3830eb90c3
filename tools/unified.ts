/** The difference of two texts in lines, as diff -u shows it. */

const CONTEXT = 3;
/** Lines that may differ before a text counts as another one: the time that is taken grows with their square. */
const MOST_EDITS = 1000;

/** Lines that are in both, only before ("-") or only after ("+"), in order. */
interface Line {
  readonly sign: " " | "-" | "+";
  readonly text: string;
}

/** The hunks; empty where the texts are equal. */
export function unifiedDiff(before: string, after: string): string[] {
  const lines = compare(split(before), split(after));
  const hunks: string[] = [];
  let [oldLine, newLine] = [1, 1];
  for (let i = 0; i < lines.length; ) {
    const next = lines.findIndex(({ sign }, at) => at >= i && sign !== " ");
    if (next < 0) break;
    const begin = Math.max(i, next - CONTEXT);
    oldLine += begin - i;
    newLine += begin - i;
    const end = hunkEnd(lines, next);
    const hunk = lines.slice(begin, end);
    const oldCount = hunk.filter(({ sign }) => sign !== "+").length;
    const newCount = hunk.filter(({ sign }) => sign !== "-").length;
    hunks.push(`@@ -${range(oldLine, oldCount)} +${range(newLine, newCount)} @@`);
    for (const { sign, text } of hunk) {
      hunks.push(sign + text.replace(/\n$/, ""));
      if (!text.endsWith("\n")) hunks.push("\\ No newline at end of file");
    }
    oldLine += oldCount;
    newLine += newCount;
    i = end;
  }
  return hunks;
}

/** After the last change that is so near to the one before that their contexts meet, and its context. */
function hunkEnd(lines: readonly Line[], first: number): number {
  let last = first;
  for (let i = first; i < lines.length && i - last <= 2 * CONTEXT; i++) if (lines[i]?.sign !== " ") last = i;
  return Math.min(lines.length, last + 1 + CONTEXT);
}

function range(line: number, count: number): string {
  if (count === 1) return `${line}`;
  return `${count === 0 ? line - 1 : line},${count}`;
}

/** With their newlines; the last one may have none. */
function split(text: string): string[] {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

function compare(before: readonly string[], after: readonly string[]): Line[] {
  let start = 0;
  while (start < before.length && start < after.length && before[start] === after[start]) start++;
  let same = 0;
  while (
    same < before.length - start &&
    same < after.length - start &&
    before[before.length - 1 - same] === after[after.length - 1 - same]
  )
    same++;
  const middle = edits(before.slice(start, before.length - same), after.slice(start, after.length - same));
  const kept = (text: string): Line => ({ sign: " ", text });
  return [...before.slice(0, start).map(kept), ...middle, ...before.slice(before.length - same).map(kept)];
}

/**
 * The fewest lines that make one of the other (E. Myers, "An O(ND) Difference Algorithm", 1986): `reach[k]` is how far
 * in `before` a path with so many edits comes on diagonal k = lines of before - lines of after.
 */
function edits(before: readonly string[], after: readonly string[]): Line[] {
  const history: Map<number, number>[] = [];
  const reach = new Map([[1, 0]]);
  for (let count = 0; count <= Math.min(before.length + after.length, MOST_EDITS); count++) {
    history.push(new Map(reach));
    for (let k = -count; k <= count; k += 2) {
      let x = isDown(reach, k, count) ? at(reach, k + 1) : at(reach, k - 1) + 1;
      while (x < before.length && x - k < after.length && before[x] === after[x - k]) x++;
      reach.set(k, x);
      if (x >= before.length && x - k >= after.length) return backtrack(before, after, history);
    }
  }
  return [
    ...before.map((text): Line => ({ sign: "-", text })),
    ...after.map((text): Line => ({ sign: "+", text })),
  ];
}

/** Whether the best way onto diagonal k adds a line, and not removes one. */
function isDown(reach: ReadonlyMap<number, number>, k: number, count: number): boolean {
  return k === -count || (k !== count && at(reach, k - 1) < at(reach, k + 1));
}

function at(reach: ReadonlyMap<number, number>, k: number): number {
  return reach.get(k) ?? -1;
}

function backtrack(
  before: readonly string[],
  after: readonly string[],
  history: readonly ReadonlyMap<number, number>[],
): Line[] {
  const lines: Line[] = [];
  let [x, y] = [before.length, after.length];
  for (let count = history.length - 1; count >= 0; count--) {
    const reach = history[count] ?? new Map<number, number>();
    const k = x - y;
    const down = isDown(reach, k, count);
    const fromX = count === 0 ? 0 : at(reach, down ? k + 1 : k - 1);
    const fromY = count === 0 ? 0 : fromX - (down ? k + 1 : k - 1);
    const keptFrom = count === 0 ? 0 : down ? fromX : fromX + 1;
    while (x > keptFrom && before[x - 1] !== undefined && x - k === y && y > 0 && x > 0) {
      lines.push({ sign: " ", text: before[x - 1] ?? "" });
      x--;
      y--;
    }
    if (count === 0) break;
    if (down) lines.push({ sign: "+", text: after[fromY] ?? "" });
    else lines.push({ sign: "-", text: before[fromX] ?? "" });
    [x, y] = [fromX, fromY];
  }
  return lines.reverse();
}
