/**
 * The command line on a terminal of its own, as a person sees it: keys are pressed when something is shown, and told
 * is what stands on the screen in the end and whether the terminal is as it was.
 */
import { spawn } from "node:child_process";
import { CLI } from "./volume.ts";

/** What is waited for on the terminal, and then what is typed, or the signal that somebody else sends. */
export type Step = readonly [shown: string, then: string | { readonly signal: NodeJS.Signals }];

export interface TerminalOptions {
  readonly columns?: number;
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** Without a shell that could be stopped for: as in a container, or after `ssh host`. */
  readonly alone?: true;
  /**
   * Holds the process while keys are typed, so that what they do hits it where it was. Not at a prompt, which takes
   * keys one by one.
   */
  readonly held?: true;
}

export interface Seen {
  /** 128+N for signal N. */
  readonly code: number;
  /** Everything that was written, as it was. */
  readonly output: string;
  /** The lines that stand on the screen, and those that went up and out of it. */
  readonly screen: readonly string[];
  /** Echo, line editing and the cursor are as they were. */
  readonly restored: boolean;
  /** For each time that it was stopped: whether the shell then had echo and a cursor. */
  readonly stops: readonly boolean[];
}

/** Runs argv[4:]; "shell" is the leader of the session, as a shell with job control is. */
const PROGRAM = `
import fcntl, json, os, select, signal, struct, sys, termios, time
options, steps, argv = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
def start(terminal):
    for fd in range(3): os.dup2(terminal, fd)
    os.closerange(3, 100)
    os.execvp(argv[0], argv)
master, terminal = os.openpty()
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, options["columns"], 0, 0))
before = termios.tcgetattr(terminal)
told, tell = os.pipe()
shell = os.fork()
if shell == 0:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    if options["alone"]:
        os.write(tell, b"pid %d\\n" % os.getpid())
        start(terminal)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.write(tell, b"pid %d\\n" % os.getpid())
        start(terminal)
    while True:
        status = os.waitpid(pid, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP: continue
        os.tcsetpgrp(terminal, os.getpgrp())
        if not os.WIFSTOPPED(status): break
        os.write(tell, b"stop %d\\n" % (termios.tcgetattr(terminal)[3] == before[3]))
        time.sleep(0.3)
        os.tcsetpgrp(terminal, pid)
        os.killpg(pid, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
os.close(tell)
def act(pid, then):
    if type(then) is str:
        os.write(master, then.encode())
    else:
        os.kill(pid, getattr(signal, then["signal"]))
output, seen, pid, reports, code = b"", 0, 0, b"", None
end = time.time() + 45
while time.time() < end:
    ready = select.select([master, told] if told else [master], [], [], 0.05)[0]
    if told in ready:
        report = os.read(told, 1000)
        reports += report
        if report.startswith(b"pid"): pid = int(report.split()[1])
        if b"stop" in report:
            # What was written before the stop comes before it.
            while select.select([master], [], [], 0)[0]: output += os.read(master, 1 << 16)
            output += b"\\x1b_stop\\x1b\\\\"
        if not report: told = 0
    if select.select([master], [], [], 0)[0]: output += os.read(master, 1 << 16)
    if pid and steps and steps[0][0].encode() in output[seen:]:
        if options["held"]:
            os.kill(pid, signal.SIGSTOP)
            while select.select([master], [], [], 0.02)[0]: output += os.read(master, 1 << 16)
            act(pid, steps.pop(0)[1])
            time.sleep(0.02)
            os.kill(pid, signal.SIGCONT)
        else:
            time.sleep(0.1)
            while select.select([master], [], [], 0)[0]: output += os.read(master, 1 << 16)
            act(pid, steps.pop(0)[1])
        seen = len(output)
    if code is None:
        done, status = os.waitpid(shell, os.WNOHANG)
        if done: code = os.waitstatus_to_exitcode(status)
    elif not ready: break
restored = termios.tcgetattr(terminal)[:4] == before[:4]
if code is None and pid: os.kill(pid, 9)
print(json.dumps(dict(output=output.decode("utf-8", "replace"), code=code, restored=restored, left=len(steps),
    stops=[line.endswith("1") for line in reports.decode().split("\\n") if line.startswith("stop")])))
`;

/** @throws Error where it hangs, or ends before all was shown that was waited for */
export async function onTerminal(
  args: readonly string[],
  steps: readonly Step[],
  options: TerminalOptions = {},
): Promise<Seen> {
  return await commandOnTerminal([process.execPath, CLI, ...args], steps, options);
}

/** The same for a line of the shell; `$sqlfuse` is the command. */
export async function lineOnTerminal(
  line: string,
  steps: readonly Step[],
  options: TerminalOptions = {},
): Promise<Seen> {
  const env = { ...options.env, sqlfuse: `${process.execPath} ${CLI}` };
  return await commandOnTerminal(["sh", "-c", line], steps, { ...options, env });
}

async function commandOnTerminal(
  argv: readonly string[],
  steps: readonly Step[],
  options: TerminalOptions,
): Promise<Seen> {
  const { columns = 80, alone = false, held = false } = options;
  const env: NodeJS.ProcessEnv = { ...process.env, TERM: "xterm", ...options.env };
  delete env.SQLFUSE_PASSWORD;
  // Node shows no colours where continuous integration runs it.
  delete env.CI;
  if (options.env?.NO_COLOR === undefined) delete env.NO_COLOR;
  const words = ["-c", PROGRAM, JSON.stringify({ columns, alone, held }), JSON.stringify(steps), ...argv];
  const python = spawn("python3", words, {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    python[name].setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
    });
  await new Promise((resolve) => python.on("close", resolve));
  if (said.stdout === "") throw new Error(`the terminal broke: ${said.stderr}`);
  const { output, code, restored, stops, left } = JSON.parse(said.stdout) as {
    output: string;
    code: number | null;
    restored: boolean;
    stops: boolean[];
    left: number;
  };
  const screen = new Screen(columns);
  screen.write(output);
  const shown = `\n${screen.lines.join("\n")}`;
  if (code === null) throw new Error(`it hangs (${left} steps are left):${shown}`);
  if (left > 0)
    throw new Error(`it ended with ${code} before ${JSON.stringify(steps.at(-left)?.[0])}:${shown}`);
  return {
    code: code < 0 ? 128 - code : code,
    output,
    screen: screen.lines,
    restored: restored && screen.hasCursor,
    stops: stops.map((hadEcho, i) => hadEcho && screen.cursorAtStops[i] === true),
  };
}

/** As much of a terminal as the command line uses; what it does not know is an error. */
class Screen {
  readonly #columns: number;
  readonly #rows: string[][] = [[]];
  readonly cursorAtStops: boolean[] = [];
  hasCursor = true;
  #row = 0;
  #column = 0;

  constructor(columns: number) {
    this.#columns = columns;
  }

  get lines(): string[] {
    const lines = this.#rows.map((row) => row.join("").trimEnd());
    while (lines.at(-1) === "") lines.pop();
    return lines;
  }

  write(text: string): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what a terminal is about
    const parts = text.matchAll(/\x1b\[(\??[\d;]*)([A-Za-z])|\x1b_stop\x1b\\|./gsu);
    for (const [part, numbers = "", letter] of parts) {
      if (part.startsWith("\x1b_")) this.cursorAtStops.push(this.hasCursor);
      else if (letter !== undefined) this.#control(numbers, letter);
      else this.#put(part);
    }
  }

  #control(numbers: string, letter: string): void {
    const number = Number.parseInt(numbers, 10) || 0;
    const row = this.#line();
    if (numbers === "?25") this.hasCursor = letter === "h";
    else if (letter === "G") this.#column = Math.max(number, 1) - 1;
    else if (letter === "A") this.#row = Math.max(0, this.#row - Math.max(number, 1));
    else if (letter === "B") this.#row += Math.max(number, 1);
    else if (letter === "K" && number === 0) row.splice(this.#column);
    else if (letter === "K" && number === 2) row.splice(0);
    else if (letter === "J" && number === 0) {
      row.splice(this.#column);
      this.#rows.splice(this.#row + 1);
    } else if (letter !== "m") throw new Error(`what is \\e[${numbers}${letter}?`);
  }

  #put(character: string): void {
    if (character === "\r") this.#column = 0;
    else if (character === "\n") this.#row++;
    else if (character === "\b") this.#column = Math.max(0, this.#column - 1);
    else if (character !== "\x07") {
      if (this.#column === this.#columns) {
        this.#row++;
        this.#column = 0;
      }
      const row = this.#line();
      while (row.length < this.#column) row.push(" ");
      row[this.#column++] = character;
    }
  }

  #line(): string[] {
    while (this.#rows.length <= this.#row) this.#rows.push([]);
    return this.#rows[this.#row] ?? [];
  }
}
