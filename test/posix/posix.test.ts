/**
 * Runs the POSIX suite, first on a filesystem of the kernel's own, which proves the cases, then on a mount.
 * SQLFUSE_POSIX_DIR=/some/directory runs it there instead of on tmpfs: any filesystem can be the control.
 */
import { chmodSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, test } from "vitest";
import { IS_ROOT, mountingImpossible, TestVolume } from "../helpers/volume.ts";
import { SUITE } from "./suite.ts";
import { runCase, Skip, Tools } from "./tools.ts";

/** Declares every case of the suite below the directory that `base` gives when the first one runs. */
function declare(kind: "control" | "mount", base: () => string, alone = false): void {
  const tools = new Tools(kind, alone);
  const skipped: string[] = [];
  let number = 0;
  for (const [area, cases] of Object.entries(SUITE)) {
    describe(area, () => {
      for (const [name, work] of Object.entries(cases)) {
        const own = number++;
        test(name, (context) => {
          try {
            runCase(base(), own, work, tools);
          } catch (error) {
            if (!(error instanceof Skip)) throw error;
            skipped.push(`${area}: ${name}: ${error.message}`);
            context.skip(error.message);
          }
        });
      }
    });
  }
  afterAll(() => {
    if (skipped.length > 0)
      console.warn(`${kind}: ${skipped.length} cases skipped\n  ${skipped.join("\n  ")}`);
  });
}

describe("the control filesystem", () => {
  const parent = process.env.SQLFUSE_POSIX_DIR ?? (existsSync("/dev/shm") ? "/dev/shm" : tmpdir());
  const directory = mkdtempSync(join(parent, "sqlfuse-posix-"));
  chmodSync(directory, 0o755);
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  declare("control", () => directory);
});

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`the POSIX suite is not run on a mount: ${impossible}`);

/** Declares the suite on a mount of its own. */
function declareMounted(options: string, alone: boolean): void {
  let volume: TestVolume;
  beforeAll(() => {
    volume = TestVolume.create();
    volume.mount(...(IS_ROOT ? ["-o", options] : []));
    chmodSync(volume.mountpoint, 0o755);
  });
  afterAll(() => {
    try {
      volume.unmount();
    } finally {
      volume.remove();
    }
  });
  declare("mount", () => volume.mountpoint, alone);
}

describe.skipIf(impossible !== undefined)("the mount", () => declareMounted("allow_other,suid", false));

// There the kernel checks no modes, and leaves ACLs to us.
describe.skipIf(impossible !== undefined || !IS_ROOT)("a mount for root alone", () =>
  declareMounted("suid", true),
);
