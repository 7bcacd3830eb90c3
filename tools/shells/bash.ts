/** The completion script for bash. The shell code is plain text below; what is made of the definitions are `case` lines. */
import { MOUNT_OPTION_WORDS } from "../mountoptions.ts";
import { DEFAULT_VERB, type Grammar, type Kind, type Verb } from "./grammar.ts";

export function bashScript(grammar: Grammar): string {
  const { verbs, flags } = grammar;
  const names = verbs.flatMap(({ name, aliases }) => [name, ...aliases]);
  const valued = verbs.flatMap((verb) => verb.flags).filter(({ value }) => value !== undefined);
  const rootFlags = [...flags, ...(verbs.find(({ name }) => name === DEFAULT_VERB)?.flags ?? [])];
  return `# Completion of sqlfuse for bash. In ~/.bashrc: source <(sqlfuse completion bash)

_sqlfuse() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]}
  # Bash cuts --option=value into three words.
  if [[ $current == "=" ]]; then
    current=
  elif [[ $previous == "=" ]]; then
    previous=\${COMP_WORDS[COMP_CWORD - 2]}
  fi
  # The verb, how many arguments stand before the current word, and whether an option waits for its value.
  local word verb= count=0 waiting= ended=
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
    if [[ $word == "=" ]]; then
      waiting=1
    elif [[ $waiting ]]; then
      waiting=
    elif [[ $ended ]]; then
      count=$((count + 1))
    elif [[ $word == -- ]]; then
      ended=1
    elif [[ $word == -* ]]; then
      case $word in
        ${unique(valued.flatMap((flag) => flag.names)).join(" | ")}) waiting=1 ;;
      esac
    elif [[ -z $verb ]]; then
      case $word in
${verbs.map(({ name, aliases }) => `        ${[name, ...aliases].join(" | ")}) verb=${name} ;;`).join("\n")}
        *) verb=${DEFAULT_VERB} count=1 ;;
      esac
    else
      count=$((count + 1))
    fi
  done

  COMPREPLY=()
  local words=
  if [[ $waiting ]]; then
    case \${verb:-${DEFAULT_VERB}}:$previous in
${valueCases(verbs).join("\n")}
    esac
  elif [[ $current == -* && -z $ended ]]; then
    case $verb in
      "") words="${unique(rootFlags.flatMap((flag) => flag.names)).join(" ")}" ;;
${verbs.map(({ name, flags: own }) => `      ${name}) words="${own.flatMap((flag) => flag.names).join(" ")}" ;;`).join("\n")}
    esac
  else
    case $verb:$count in
      :*)
        words="${names.join(" ")}"
        compopt -o default
        ;;
${verbs.flatMap(argumentCases).join("\n")}
    esac
  fi
  [[ -z $words ]] || mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

_sqlfuse_mounted() {
  local point type
  while read -r _ point type _; do
    # The kernel writes a space as \\040.
    [[ $type != fuse.sqlfuse ]] || printf -v point %b "\${point//\\\\/\\\\0}"
    [[ $type != fuse.sqlfuse || $point != "$1"* ]] || COMPREPLY+=("$point")
  done </proc/mounts
  compopt -o filenames -o default
}

_sqlfuse_mountoptions() {
  local before=
  [[ $1 != *,* ]] || before=\${1%,*},
  mapfile -t COMPREPLY < <(compgen -P "$before" -W "${MOUNT_OPTION_WORDS.join(" ")}" -- "\${1##*,}")
  compopt -o nospace
}

complete -F _sqlfuse sqlfuse
`;
}

/** For each action one line, with all "verb:option" that it is for. */
function valueCases(verbs: readonly Verb[]): string[] {
  const patterns = new Map<string, string[]>();
  for (const { name, flags } of verbs) {
    for (const { names, value } of flags) {
      const action = value === undefined ? undefined : actionOf(value);
      if (action === undefined) continue;
      patterns.set(action, [...(patterns.get(action) ?? []), ...names.map((one) => `${name}:${one}`)]);
    }
  }
  return [...patterns].map(([action, list]) => `      ${list.join(" | ")}) ${action} ;;`);
}

function argumentCases({ name, args, repeats }: Verb): string[] {
  return args.flatMap((kind, i) => {
    const action = actionOf(kind);
    const pattern = repeats && i === args.length - 1 ? "*" : i;
    return action === undefined ? [] : [`      ${name}:${pattern}) ${action} ;;`];
  });
}

/** Readline's own completion of file names knows more of quotes and "~" than any script. */
function actionOf(kind: Kind): string | undefined {
  switch (kind) {
    case "nothing":
      return undefined;
    case "files":
      return "compopt -o default";
    case "directories":
      return "compopt -o dirnames";
    case "mounted":
      return `_sqlfuse_mounted "$current"`;
    case "mountoptions":
      return `_sqlfuse_mountoptions "$current"`;
    default:
      return `words="${kind.join(" ")}"`;
  }
}

function unique(words: readonly string[]): string[] {
  return [...new Set(words)];
}
