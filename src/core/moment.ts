/** When: the name of a snapshot, an epoch, or a time as people write it. Pure: text and the time it is now in. */
import type { At } from "./types.ts";

/** A snapshot's own name goes before what else the text may mean. A time that has no zone is local. */
export function parseAt(text: string, now = new Date()): At {
  const epoch = /^\d{1,15}$/.test(text) ? Number(text) : undefined;
  const time = parseTime(text.trim().toLowerCase(), now);
  return {
    name: text,
    ...(epoch === undefined ? {} : { epoch }),
    ...(time === undefined ? {} : { time: timeOf(time) }),
  };
}

function timeOf(date: Date): NonNullable<At["time"]> {
  const sec = Math.floor(date.getTime() / 1000);
  return { sec, nsec: (date.getTime() - sec * 1000) * 1_000_000 + 999_999 };
}

const UNIT_SECONDS = { second: 1, minute: 60, hour: 3600, day: 86_400, week: 604_800 } as const;
/** The end of the second that is named: what was made within it is shown with the same time. */
const TO_THE_END_MS = 999;

function parseTime(text: string, now: Date): Date | undefined {
  if (text === "now") return now;
  const [, count, unit] = /^(\d{1,6}) ?(second|minute|hour|day|week|month|year)s? ago$/.exec(text) ?? [];
  if (count !== undefined && unit !== undefined) return ago(Number(count), unit, now);
  const [, word, hour, minute, second] =
    /^(?:(today|yesterday)(?: |$))?(?:(\d{1,2}):(\d\d)(?::(\d\d))?)?$/.exec(text) ?? [];
  if (word !== undefined || hour !== undefined) {
    const daysBack = word === "yesterday" ? 1 : 0;
    if (hour === undefined) return dated(now, daysBack, now.getHours(), now.getMinutes(), now.getSeconds());
    return dated(now, daysBack, Number(hour), Number(minute), Number(second ?? 0));
  }
  return parseIso(text);
}

/** That time of day, so many days before `now`; undefined where there is no such time. */
function dated(now: Date, daysBack: number, hour: number, minute: number, second: number): Date | undefined {
  if (hour > 23 || minute > 59 || second > 59) return undefined;
  const day = now.getDate() - daysBack;
  return new Date(now.getFullYear(), now.getMonth(), day, hour, minute, second, TO_THE_END_MS);
}

function ago(count: number, unit: string, now: Date): Date {
  const then = new Date(now);
  if (unit === "month" || unit === "year") {
    then.setMonth(then.getMonth() - count * (unit === "year" ? 12 : 1));
    // A month that has no such day: JavaScript goes on into the next, and its last day is meant.
    if (then.getDate() !== now.getDate()) then.setDate(0);
  } else then.setTime(then.getTime() - count * 1000 * UNIT_SECONDS[unit as keyof typeof UNIT_SECONDS]);
  return then;
}

/** ISO 8601: a date, with or without a time, with or without a zone. */
function parseIso(text: string): Date | undefined {
  const [, date, time, second, fraction, zone] =
    /^(\d{4}-\d\d-\d\d)(?:[t ](\d\d:\d\d)(?::(\d\d)(\.\d{1,9})?)?(z|[+-]\d\d:?\d\d)?)?$/.exec(text) ?? [];
  if (date === undefined) return undefined;
  const milliseconds = fraction === undefined ? `.${TO_THE_END_MS}` : fraction.slice(0, 4);
  const where = zone?.toUpperCase().replace(/(\d\d)(\d\d)$/, "$1:$2") ?? "";
  const parsed = new Date(`${date}T${time ?? "00:00"}:${second ?? "00"}${milliseconds}${where}`);
  return Number.isNaN(parsed.getTime()) || !isDate(date) ? undefined : parsed;
}

/** JavaScript takes February 30 for March 2. */
function isDate(text: string): boolean {
  return new Date(`${text}T00:00:00Z`).toISOString().startsWith(text);
}
