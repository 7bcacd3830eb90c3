/** Before each test: on the second transport those are left out, aloud, that do not hold there. */
import { beforeEach } from "vitest";
import { MOUNT_EXCEPTIONS } from "./secondtransport.ts";

if (process.env.SQLFUSE_TEST_TRANSPORT === "fuse-native") {
  beforeEach(({ task, skip }) => {
    const reason = MOUNT_EXCEPTIONS[task.name];
    if (reason !== undefined) skip(reason);
  });
}
