/** Which automatic snapshots a retention keeps. */
import { describe, expect, it } from "vitest";
import { NO_RETENTION, type Retention, readRetention, surplus } from "../../src/core/retention.ts";

const DAY = 86_400;

/** Snapshots at local times, in order. */
function at(...times: string[]): { time: string; created: { sec: number; nsec: number } }[] {
  return times.map((time) => ({ time, created: { sec: new Date(time).getTime() / 1000, nsec: 0 } }));
}

const NOW = "2026-11-20T12:00:00";

function kept(rules: Partial<Retention>, ...times: string[]): string[] {
  const all = at(...times);
  const gone = surplus({ ...NO_RETENTION, ...rules }, all, at(NOW)[0]?.created ?? { sec: 0, nsec: 0 });
  return all.filter((one) => !gone.includes(one)).map(({ time }) => time);
}

describe("a retention keeps", () => {
  const HOURS = [
    "2026-11-18T23:10:00",
    "2026-11-18T23:50:00",
    "2026-11-19T10:05:00",
    "2026-11-20T10:05:00",
    "2026-11-20T10:55:00",
    "2026-11-20T11:59:00",
  ];

  it("nothing without a rule", () => {
    expect(kept({}, ...HOURS)).toEqual([]);
  });

  it("what is young enough", () => {
    expect(kept({ within: DAY }, ...HOURS)).toEqual(HOURS.slice(3));
    expect(kept({ within: DAY + 2 * 3600 }, ...HOURS)).toEqual(HOURS.slice(2));
  });

  it("the newest", () => {
    expect(kept({ last: 2 }, ...HOURS)).toEqual(HOURS.slice(-2));
  });

  it("the newest of each hour or day that has one, however long ago that is", () => {
    expect(kept({ hourly: 3 }, ...HOURS)).toEqual([HOURS[2], HOURS[4], HOURS[5]]);
    expect(kept({ hourly: 4 }, ...HOURS)).toEqual([HOURS[1], HOURS[2], HOURS[4], HOURS[5]]);
    expect(kept({ daily: 2 }, ...HOURS)).toEqual([HOURS[2], HOURS[5]]);
  });

  it("the newest of each week, which begins on Monday", () => {
    const [sunday, monday, tuesday] = ["2026-11-15T23:59:59", "2026-11-16T00:00:00", "2026-11-17T00:00:00"];
    expect(kept({ weekly: 5 }, sunday, monday, tuesday)).toEqual([sunday, tuesday]);
    expect(kept({ weekly: 5 }, "2025-12-31T00:00:00", "2026-01-01T00:00:00")).toHaveLength(1);
  });

  it("the newest of each month and year", () => {
    const times = [
      "2024-12-30T00:00:00",
      "2025-12-30T00:00:00",
      "2026-01-01T00:00:00",
      "2026-01-30T00:00:00",
    ];
    expect(kept({ monthly: 2 }, ...times)).toEqual([times[1], times[3]]);
    expect(kept({ yearly: 9 }, ...times)).toEqual([times[0], times[1], times[3]]);
  });

  it("what any of several rules keeps", () => {
    expect(kept({ last: 1, daily: 3 }, ...HOURS)).toEqual([HOURS[1], HOURS[2], HOURS[5]]);
  });

  it("what it was when it is read back, and is not read from what cannot be one", () => {
    const rules = { ...NO_RETENTION, weekly: 7, whenFull: false };
    expect(readRetention(JSON.stringify(rules))).toEqual(rules);
    for (const text of [
      undefined,
      "",
      "[]",
      "7",
      "null",
      '{"within":1}',
      JSON.stringify({ ...rules, daily: "x" }),
    ])
      expect(readRetention(text)).toBeUndefined();
  });
});
