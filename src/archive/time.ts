/** Times as decimal seconds, as pax headers and `stat -c %.9Y` write them: exact, and right before 1970 too. */
import type { Time } from "../base/clock.ts";

const NS = 1_000_000_000;

/** Always nine decimals. */
export function formatTime({ sec, nsec }: Time): string {
  // -1.5 s is held as -2 s and half a second.
  const negative = sec < 0;
  const whole = negative && nsec > 0 ? -sec - 1 : Math.abs(sec);
  const rest = negative && nsec > 0 ? NS - nsec : nsec;
  return `${negative ? "-" : ""}${whole}.${String(rest).padStart(9, "0")}`;
}

/** Further decimals are cut; undefined where the text is no time. */
export function parseTime(text: string): Time | undefined {
  const match = /^(-?)(\d{1,15})(?:\.(\d*))?$/.exec(text);
  if (match === null) return undefined;
  const whole = Number(match[2]);
  const rest = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  if (match[1] === "") return { sec: whole, nsec: rest };
  return rest > 0 ? { sec: -whole - 1, nsec: NS - rest } : { sec: -whole || 0, nsec: 0 };
}
