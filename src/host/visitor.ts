/**
 * Looks at our own mount from another process. A thread of this one that waits for an answer of ours could not be killed
 * any more after kill -9 had ended those that give it: then /dev/fuse would stay open, and neither we nor the mount would end.
 */
import { execFile } from "node:child_process";

/** Runs a program that meets the mount in its arguments. @throws Error what it says where it fails */
function visit(program: string, args: readonly string[]): Promise<void> {
  // Nothing of our environment is its business.
  const env = { PATH: process.env.PATH ?? "/usr/bin:/bin" };
  return new Promise((resolve, reject) => {
    execFile(program, args, { env }, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else reject(new Error(stderr.trim() || error.message));
    });
  });
}

/** Has the kernel ask for the attributes of the root. @throws Error */
export async function visitRoot(mountpoint: string): Promise<void> {
  await visit("stat", [mountpoint]);
}

/** Has the kernel write back what was stored in mapped files; when it returns we have seen it. @throws Error */
export async function writeBack(mountpoint: string): Promise<void> {
  await visit("sync", ["-f", mountpoint]);
  // That returns when the writes are sent. They come before what is asked after them.
  await visit("stat", ["-f", mountpoint]);
}
