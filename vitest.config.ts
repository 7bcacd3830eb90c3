import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files that take long, mostly waiting: what is left at the end of a run has no others beside it. */
const FIRST = [
  "remote/realservers",
  "tools/terminal",
  "mount/follow",
  "mount/life",
  "mount/push",
  "tools/replicate",
  "tools/mount",
  "posix/posix",
  "mount/work",
  "mount/plaintext",
  "mount/partial",
  "remote/rsync",
  "mount/idle",
  "tools/rewrite",
  "tools/objectstore",
  "reliability/shortworkloads",
];

class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const at = FIRST.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`));
      return at < 0 ? FIRST.length : at;
    };
    return (await super.sort(files)).sort((one, other) => place(one) - place(other));
  }
}

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/setup.ts"],
    setupFiles: ["test/helpers/eachtest.ts"],
    pool: "forks",
    // Mounts, key derivation and compilers share the cores: more forks than this only make timings worse.
    maxWorkers: 4,
    sequence: { sequencer: LongFirst },
    // For what hangs alone: beside other work a test may take thrice its time.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    teardownTimeout: 20_000,
    dangerouslyIgnoreUnhandledErrors: false,
    reporters: ["default"],
  },
});
