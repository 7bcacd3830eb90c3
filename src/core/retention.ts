/** Which automatic snapshots stay: the words are restic's. Pure: snapshots and a time in, snapshots out. */
import type { Time } from "../base/clock.ts";

/** A snapshot stays if any of the rules keeps it. */
export interface Retention {
  /** All that are younger than so many seconds. */
  readonly within: number;
  /** So many of the newest. */
  readonly last: number;
  /** The newest of each of so many hours, days, ... that have one, by local time; weeks begin on Monday. */
  readonly hourly: number;
  readonly daily: number;
  readonly weekly: number;
  readonly monthly: number;
  readonly yearly: number;
  /** Where the disk is full the oldest go, before anything is refused for that. */
  readonly whenFull: boolean;
}

const HOUR_SEC = 3600;
const DAY_SEC = 24 * HOUR_SEC;

/** All of the last day, then one an hour for a week, one a day for a month, one a week for a year. */
export const DEFAULT_RETENTION: Retention = {
  within: DAY_SEC,
  last: 0,
  hourly: 168,
  daily: 30,
  weekly: 52,
  monthly: 0,
  yearly: 0,
  whenFull: true,
};

/** Keeps none. */
export const NO_RETENTION: Retention = {
  within: 0,
  last: 0,
  hourly: 0,
  daily: 0,
  weekly: 0,
  monthly: 0,
  yearly: 0,
  whenFull: true,
};

/** What a period of time is called: two snapshots of the same period have the same name for it. */
const PERIODS = {
  hourly: (date: Date) => `${dayOf(date)} ${date.getHours()}`,
  daily: dayOf,
  weekly: (date: Date) =>
    dayOf(new Date(date.getFullYear(), date.getMonth(), date.getDate() - ((date.getDay() + 6) % 7))),
  monthly: (date: Date) => `${date.getFullYear()}-${date.getMonth()}`,
  yearly: (date: Date) => `${date.getFullYear()}`,
} as const;

function dayOf(date: Date): string {
  return `${date.getFullYear()}-${date.getMonth()}-${date.getDate()}`;
}

interface Dated {
  readonly created: Time;
}

/** Those of `snapshots`, which are ordered from the oldest to the newest, that no rule keeps. */
export function surplus<T extends Dated>(retention: Retention, snapshots: readonly T[], now: Time): T[] {
  const newestFirst = snapshots.toReversed();
  const kept = new Set<T>(newestFirst.slice(0, retention.last));
  for (const snapshot of newestFirst)
    if (now.sec - snapshot.created.sec < retention.within) kept.add(snapshot);
  for (const [rule, periodOf] of Object.entries(PERIODS)) {
    const periods = new Set<string>();
    for (const snapshot of newestFirst) {
      const period = periodOf(new Date(snapshot.created.sec * 1000));
      if (periods.has(period)) continue;
      if (periods.size === retention[rule as keyof typeof PERIODS]) break;
      periods.add(period);
      kept.add(snapshot);
    }
  }
  return snapshots.filter((snapshot) => !kept.has(snapshot));
}

/** What `meta.retention` says; undefined where there is none, or none that can be. */
export function readRetention(text: string | undefined): Retention | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
  return isRetention(value) ? value : undefined;
}

function isRetention(value: unknown): value is Retention {
  if (typeof value !== "object" || value === null) return false;
  const fields = new Map<string, unknown>(Object.entries(value));
  return Object.entries(NO_RETENTION).every(([name, like]) => {
    const field = fields.get(name);
    return typeof like === "boolean" ? typeof field === "boolean" : Number.isSafeInteger(field);
  });
}
