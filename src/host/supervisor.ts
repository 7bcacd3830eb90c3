/** sd_notify(3): who started us, if it wants to know, is told by a datagram that we are ready. */
import { sendDatagram } from "../native/libc.ts";

/** The mount answers. Failing to say so is the supervisor's to notice: it knows how long it waits. */
export function notifyReady(environment: NodeJS.ProcessEnv = process.env): void {
  const socket = environment.NOTIFY_SOCKET;
  if (socket !== undefined && socket !== "") sendDatagram(socket, Buffer.from("READY=1"));
}
