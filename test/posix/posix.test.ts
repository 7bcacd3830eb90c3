/**
 * Runs the POSIX suite, first on a filesystem of the kernel's own, which proves the cases, then on a mount.
 * The second transport runs the same list, but for what stands in test/helpers/secondtransport.ts.
 * SQLFUSE_POSIX_DIR=/some/directory runs it there instead of on tmpfs: any filesystem can be the control.
 */
import { chmodSync, existsSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sys } from "../helpers/libc.ts";
import { fuseNativeImpossible, POSIX_EXCEPTIONS, POSIX_RACES } from "../helpers/secondtransport.ts";
import { IS_ROOT, mountingImpossible, TestVolume } from "../helpers/volume.ts";
import { SUITE } from "./suite.ts";
import { runCase, Skip, Tools } from "./tools.ts";

/** Cases that do not hold, each with the reason, by "area: name". */
type Exceptions = Readonly<Record<string, string>>;

/** Declares every case of the suite below the directory that `base` gives when the first one runs. */
function declare(
  kind: "control" | "mount",
  base: () => string,
  alone = false,
  exceptions: Exceptions = {},
): void {
  const tools = new Tools(kind, alone);
  const skipped: string[] = [];
  let number = 0;
  for (const [area, cases] of Object.entries(SUITE)) {
    describe(area, () => {
      for (const [name, work] of Object.entries(cases)) {
        const own = number++;
        test(name, (context) => {
          const exception = exceptions[`${area}: ${name}`];
          try {
            if (exception !== undefined && exception === POSIX_RACES[`${area}: ${name}`])
              tools.skip(exception);
            if (exception === undefined) runCase(base(), own, work, tools);
            else mustFail(base(), () => runCase(base(), own, work, tools));
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

/** A case that fails leaves its files open, and the mount busy. */
function closeBelow(directory: string): void {
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`).startsWith(`${directory}/`)) sys.close(Number(fd));
    } catch {
      // the descriptor of this listing
    }
  }
}

/** An exception that holds by now is none. */
function mustFail(directory: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    if (error instanceof Skip) throw error;
    return;
  } finally {
    closeBelow(directory);
  }
  throw new Error("this holds: it is no exception any more");
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
function declareMounted(options: string, alone: boolean, exceptions: Exceptions = {}): void {
  let volume: TestVolume;
  beforeAll(() => {
    volume = TestVolume.create();
    volume.mount(...(IS_ROOT || options.includes("transport") ? ["-o", options] : []));
    chmodSync(volume.mountpoint, 0o755);
  });
  afterAll(() => {
    try {
      volume.unmount();
    } finally {
      volume.remove();
    }
  });
  declare("mount", () => volume.mountpoint, alone, exceptions);
}

describe.skipIf(impossible !== undefined)("the mount", () => declareMounted("allow_other,suid", false));

// There the kernel checks no modes, and leaves ACLs to us.
describe.skipIf(impossible !== undefined || !IS_ROOT)("a mount for root alone", () =>
  declareMounted("suid", true),
);

const secondImpossible = impossible ?? fuseNativeImpossible();
if (secondImpossible !== undefined)
  console.warn(`the POSIX suite is not run on the second transport: ${secondImpossible}`);

describe.skipIf(secondImpossible !== undefined)("a mount by fuse-native", () => {
  declareMounted("suid,transport=fuse-native", true, { ...POSIX_EXCEPTIONS, ...POSIX_RACES });

  test("no exception is left of a case that is gone", () => {
    const cases = Object.entries(SUITE).flatMap(([area, all]) =>
      Object.keys(all).map((name) => `${area}: ${name}`),
    );
    expect(
      [...Object.keys(POSIX_EXCEPTIONS), ...Object.keys(POSIX_RACES)].filter((name) => !cases.includes(name)),
    ).toEqual([]);
  });
});
