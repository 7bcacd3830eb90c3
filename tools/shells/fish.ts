/** The completion script for fish. */
import { MOUNT_OPTION_WORDS } from "../mountoptions.ts";
import { DEFAULT_VERB, type Flag, type Grammar, type Kind, type Verb } from "./grammar.ts";

/** More arguments than anybody gives. */
const MANY = 9999;

export function fishScript({ verbs, flags }: Grammar): string {
  const valued = verbs.flatMap((verb) => verb.flags).filter(({ value }) => value !== undefined);
  const lines = [
    ...verbs.flatMap(({ name, aliases, summary }) =>
      [name, ...aliases].map((word) => `-n '__sqlfuse_at ""' -a ${word} -d ${quote(summary)}`),
    ),
    `-n '__sqlfuse_at ""' -F`,
    ...flags.map((flag) => flagLine("", flag)),
    ...(verbs.find(({ name }) => name === DEFAULT_VERB)?.flags ?? []).map((flag) => flagLine("", flag)),
    ...verbs.flatMap((verb) => [
      ...verb.flags.map((flag) => flagLine(verb.name, flag)),
      ...argumentLines(verb),
    ]),
  ];
  return `# Completion of sqlfuse for fish: sqlfuse completion fish > ~/.config/fish/completions/sqlfuse.fish

# The verb, "" before there is one, and how many arguments stand before the current word.
function __sqlfuse_state
    set -l verb
    set -l number 0
    set -l waiting no
    for word in (commandline -opc)[2..]
        if test $waiting = yes
            set waiting no
            continue
        end
        switch $word
            case ${[...new Set(valued.flatMap((flag) => flag.names))].join(" ")}
                set waiting yes
            case '-*'
            case '*'
                if test -n "$verb"
                    set number (math $number + 1)
                else
                    switch $word
${verbs.flatMap(({ name, aliases }) => [`                        case ${[name, ...aliases].join(" ")}`, `                            set verb ${name}`]).join("\n")}
                        case '*'
                            set verb ${DEFAULT_VERB}
                            set number 1
                    end
                end
        end
    end
    echo "$verb"
    echo $number
end

# Whether the verb is $argv[1], and the argument one from $argv[2] to $argv[3].
function __sqlfuse_at
    set -l state (__sqlfuse_state)
    test "$state[1]" = "$argv[1]"; or return 1
    test (count $argv) -eq 1; and return 0
    test $state[2] -ge $argv[2] -a $state[2] -le $argv[3]
end

# The kernel writes a space as \\040.
function __sqlfuse_mounted
    string match -r '^\\S+ \\S+ fuse\\.sqlfuse ' </proc/mounts | string replace -r '^\\S+ (\\S+) .*' '$1' \\
        | while read -l point
        printf '%b\\n' (string replace -a '\\\\' '\\\\0' -- $point)
    end
end

complete -c sqlfuse -f
${lines.map((line) => `complete -c sqlfuse ${line}`).join("\n")}
`;
}

function flagLine(verb: string, { names, help, value }: Flag): string {
  const spelled = names.map((name) =>
    name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`,
  );
  const takes = value === undefined ? "" : ` ${value === "nothing" ? "-x" : `-r ${actionOf(value)}`}`;
  const condition = verb === "" ? `'__sqlfuse_at ""'` : `'__sqlfuse_at ${verb}'`;
  return `-n ${condition} ${spelled.join(" ")}${takes} -d ${quote(help)}`;
}

function argumentLines({ name, args, repeats }: Verb): string[] {
  return args.flatMap((kind, i) => {
    if (kind === "nothing") return [];
    const last = repeats && i === args.length - 1 ? MANY : i;
    return [`-n '__sqlfuse_at ${name} ${i} ${last}' ${actionOf(kind)}`];
  });
}

function actionOf(kind: Exclude<Kind, "nothing">): string {
  switch (kind) {
    case "files":
      return "-F";
    case "directories":
      return "-f -a '(__fish_complete_directories)'";
    case "mountoptions":
      return `-f -a '(__fish_append , ${MOUNT_OPTION_WORDS.join(" ")})'`;
    case "mounted":
      return "-F -a '(__sqlfuse_mounted)'";
    default:
      return `-f -a ${quote(kind.join(" "))}`;
  }
}

function quote(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
