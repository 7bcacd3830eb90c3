/**
 * A worker that unmounts, for a process whose main thread serves the mount: umount(2) may wait until that thread has
 * answered what the kernel still wants to write.
 */
import { parentPort, workerData } from "node:worker_threads";
import { detach } from "./attachment.ts";
import { HostError } from "./errors.ts";
import type { DetachOrder, DetachReport } from "./messages.ts";

const { mountpoint, lazy } = workerData as DetachOrder;

function report(): DetachReport {
  try {
    detach(mountpoint, lazy);
    return { done: true };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { done: false, reason: error instanceof HostError ? error.reason : "not-permitted", message };
  }
}

parentPort?.postMessage(report());
