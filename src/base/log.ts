/** How grave a message of a mount is; the gravest first. "debug" are the requests themselves. */
export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Takes one message, a line without its newline. */
export type Log = (level: LogLevel, line: string) => void;

/** `log`, without what is less grave than `least`. */
export function filterLog(least: LogLevel, log: Log): Log {
  const limit = LOG_LEVELS.indexOf(least);
  return (level, line) => {
    if (LOG_LEVELS.indexOf(level) <= limit) log(level, line);
  };
}
