/** Reading a volume that another process has open, and one that nobody has. */
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { Volume } from "../../src/core/volume.ts";
import { runChild } from "./child.ts";
import { expectErrno, Fixture, inVolume, mkdir, put, ROOT } from "./fixture.ts";

/** The key in the words of a child process, where Key is imported. */
function keySource({ key }: Fixture): string {
  const { bytes, salt, ...rest } = key.toMessage();
  const buffer = (part: Uint8Array) => `Buffer.from("${Buffer.from(part).toString("hex")}", "hex")`;
  return `Key.fromMessage({ ...${JSON.stringify(rest)}, bytes: ${buffer(bytes)}, salt: ${buffer(salt)} })`;
}

describe("a volume opened beside", () => {
  it("that nobody has open is only read, and leaves nothing", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", "content");
      fixture.close();
      const beside = fixture.open({ beside: true });
      expect(beside.readOnly).toBe(true);
      expectErrno("EROFS", () => mkdir(beside, ROOT, "d"));
      expect(existsSync(`${fixture.path}-wal`)).toBe(false);
    }));

  it("is refused where this process has it open itself: that would drop its locks", () =>
    inVolume((fixture) => {
      expect(fixture.volume.readOnly).toBe(false);
      let reason = "";
      try {
        Volume.open(fixture.path, fixture.key, { beside: true });
      } catch (error) {
        if (error instanceof OpenError) reason = error.reason;
      }
      expect(reason).toBe("locked");
    }));

  it("keeps out who would write, and not who reads", () => {
    const fixture = new Fixture();
    try {
      fixture.open({ beside: true });
      const { stdout } = runChild(`
        import { Volume } from "src/core/volume.ts";
        import { Key } from "src/db/key.ts";
        const key = ${keySource(fixture)};
        const attempt = (options: object) => {
          try {
            Volume.open(${JSON.stringify(fixture.path)}, key, options).close();
            return "ok";
          } catch (error) {
            return (error as { reason?: string }).reason ?? String(error);
          }
        };
        process.stdout.write([attempt({}), attempt({ beside: true }), attempt({ readOnly: true })].join());
      `);
      expect(stdout).toBe("locked,ok,ok");
      fixture.finish();
    } finally {
      fixture.remove();
    }
  });

  it("a writer sees the last commit of when it was opened, all the time", () => {
    const fixture = new Fixture();
    try {
      const { volume } = fixture;
      put(volume, ROOT, "committed", "1");
      volume.commit();
      put(volume, ROOT, "open group", "2");
      const { status, stdout, stderr } = runChild(`
        import { Volume } from "src/core/volume.ts";
        import { Key } from "src/db/key.ts";
        import { namesOf, ROOT } from "test/core/fixture.ts";
        const volume = Volume.open(${JSON.stringify(fixture.path)}, ${keySource(fixture)}, { beside: true });
        const seen = namesOf(volume, ROOT);
        let refused = "";
        try { volume.closeEpoch(); } catch (error) { refused = String((error as { code?: unknown }).code); }
        const text = [...volume.sqlText()].length > 0;
        volume.close();
        process.stdout.write(JSON.stringify({ seen, refused, text }));
      `);
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      expect(JSON.parse(stdout)).toEqual({ seen: ["committed"], refused: "EROFS", text: true });
      fixture.finish();
    } finally {
      fixture.remove();
    }
  });
});
