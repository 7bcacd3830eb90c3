/** Putting back between two places; the commands that do it: test/tools/restore.test.ts. */
import { expect, it } from "vitest";
import { type RestoreOptions, Restorer } from "../../src/archive/restorer.ts";
import { VolumePlace } from "../../src/archive/volumeplace.ts";
import { b, contentOf, type Fixture, find, put, ROOT } from "../core/fixture.ts";
import { withVolumes } from "./rich.ts";

/** A place where one name cannot be changed. */
class Stuck extends VolumePlace {
  override rename(from: string, to: string): void {
    if (to === "/first") throw Object.assign(new Error("no"), { code: "EACCES" });
    super.rename(from, to);
  }
}

it("where the first name of a file cannot be put back, the others are, with their own content", async () => {
  await withVolumes(2, async (then: Fixture, now: Fixture) => {
    const [past, present] = [then.volume, now.volume];
    past.tree.link(put(past, ROOT, "first", "then"), ROOT, b("other"));
    put(present, ROOT, "first", "now");
    const skipped: string[] = [];
    const options: RestoreOptions = {
      chown: false,
      remove: false,
      dryRun: false,
      breathe: () => undefined,
      onItem() {},
      onStay() {},
      onSkip: (path) => skipped.push(path),
      onLoss() {},
    };
    await new Restorer(new VolumePlace(past, 0, 0), new Stuck(present, 0, 0), options).restore("", "");
    expect(skipped).toEqual(["/first"]);
    const text = (name: string) => contentOf(present, find(present, name)?.ino ?? ROOT).toString();
    expect([text("first"), text("other")]).toEqual(["now", "then"]);
  });
});
