/** What --at takes for a time. */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { parseAt } from "../../src/core/moment.ts";

/** A Friday, half past three in Berlin. */
const NOW = new Date("2026-11-20T14:30:45.500Z");
const ZONE = "Europe/Berlin";

beforeAll(() => {
  vi.stubEnv("TZ", ZONE);
});
afterAll(() => {
  vi.unstubAllEnvs();
});

/** The time in ISO 8601, in UTC; undefined where the text is none. */
function utc(text: string, now = NOW): string | undefined {
  const { time } = parseAt(text, now);
  return time && new Date(time.sec * 1000).toISOString().replace(".000", "");
}

/** What local time the text means. */
function local(text: string): string | undefined {
  const { time } = parseAt(text, NOW);
  return time && new Date(time.sec * 1000).toLocaleString("sv-SE");
}

describe("--at", () => {
  test.each([
    ["now", "2026-11-20 15:30:45"],
    ["today", "2026-11-20 15:30:45"],
    ["yesterday", "2026-11-19 15:30:45"],
    ["yesterday 14:00", "2026-11-19 14:00:00"],
    ["Yesterday 7:05:09", "2026-11-19 07:05:09"],
    ["today 09:15", "2026-11-20 09:15:00"],
    ["09:15", "2026-11-20 09:15:00"],
    ["2 hours ago", "2026-11-20 13:30:45"],
    ["1 minute ago", "2026-11-20 15:29:45"],
    ["90 seconds ago", "2026-11-20 15:29:15"],
    ["3 days ago", "2026-11-17 15:30:45"],
    ["2 weeks ago", "2026-11-06 15:30:45"],
    ["1 month ago", "2026-10-20 15:30:45"],
    ["2 years ago", "2024-11-20 15:30:45"],
    ["2026-03-01", "2026-03-01 00:00:00"],
    ["2026-03-01 14:07", "2026-03-01 14:07:00"],
    ["2026-03-01T14:07:08", "2026-03-01 14:07:08"],
  ])("%j is %s, local time", (text, time) => {
    expect(local(text)).toBe(time);
  });

  test.each([
    ["1 month ago", "2026-03-31T12:00:00Z", "2026-02-28T13:00:00Z"],
    ["1 month ago", "2026-03-28T13:00:00Z", "2026-02-28T13:00:00Z"],
    ["5 months ago", "2026-10-31T13:00:00Z", "2026-05-31T12:00:00Z"],
    ["1 year ago", "2028-02-29T13:00:00Z", "2027-02-28T13:00:00Z"],
    ["4 years ago", "2028-02-29T13:00:00Z", "2024-02-29T13:00:00Z"],
  ])("%j at %s is %s: the last day of a month that has no such day", (text, now, then) => {
    expect(utc(text, new Date(now))).toBe(then);
  });

  test.each([
    ["2026-03-01T14:00:00Z", "2026-03-01T14:00:00Z"],
    ["2026-03-01 14:00+02:00", "2026-03-01T12:00:00Z"],
    ["2026-03-01T14:00:00.25-0530", "2026-03-01T19:30:00Z"],
    ["2026-07-01 14:00", "2026-07-01T12:00:00Z"],
    ["2026-12-01 14:00", "2026-12-01T13:00:00Z"],
  ])("%j is %s", (text, time) => {
    expect(utc(text)).toBe(time);
  });

  test("means the whole second that is named, as lists show no more", () => {
    expect(parseAt("2026-03-01 14:00:08", NOW).time?.nsec).toBe(999_999_999);
    expect(parseAt("2026-03-01 14:00:08.25", NOW).time?.nsec).toBe(250_999_999);
  });

  test.each([
    "tomorrow",
    "2026-02-30",
    "2026-13-01",
    "24:00",
    "14:60",
    "0x10",
    "hours ago",
    "",
    "2026",
    "ago",
  ])("%j is no time", (text) => {
    expect(parseAt(text, NOW).time).toBeUndefined();
  });

  test("takes each text for a name too, and a number for an epoch", () => {
    expect(parseAt("17", NOW)).toEqual({ name: "17", epoch: 17 });
    expect(parseAt("before the upgrade", NOW)).toEqual({ name: "before the upgrade" });
    expect(parseAt("now", NOW)).toMatchObject({ name: "now", time: { nsec: 500_999_999 } });
  });
});
