/** What is asked of a mount while it ends is answered, whatever the answer: here the daemon is the test. */
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { mountingImpossible, PASSWORD, REPOSITORY, TestVolume } from "../helpers/volume.ts";

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`the end of a mount is not tested: ${impossible}`);

test.skipIf(impossible !== undefined)("orders that come while a mount ends are answered", async () => {
  const volume = TestVolume.create();
  try {
    // Built: a mount starts its worker beside itself.
    const { Mount } = (await import(
      `${REPOSITORY}/dist/src/host/mount.js`
    )) as typeof import("../../src/host/mount.ts");
    const key = unlock(volume.file, Buffer.from(PASSWORD));
    const mount = await Mount.start(
      {
        transport: "kernel",
        path: volume.file,
        mountpoint: volume.mountpoint,
        readOnly: false,
        allowOther: false,
        defaultPermissions: true,
        suid: false,
        dev: false,
        exec: true,
        noatime: false,
        sync: false,
        commitIntervalMs: 1000,
        writeback: false,
        fsname: volume.file,
        trace: false,
      },
      key,
      () => {},
    );
    key.wipe();
    let ended = false;
    const closing = mount.close().then(() => (ended = true));
    const answers: Promise<{ ok: boolean }>[] = [];
    while (!ended) {
      answers.push(mount.history({ do: "list" }), mount.remote({ do: "remove", name: "none" }));
      await sleep(0);
    }
    await closing;
    expect(answers.length).toBeGreaterThan(2);
    for (const answer of await Promise.all(answers)) expect(answer).toHaveProperty("ok");
  } finally {
    volume.remove();
  }
});
