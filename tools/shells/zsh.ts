/** The completion script for zsh, whose `_arguments` does most of the work. */
import { MOUNT_OPTION_WORDS } from "../mountoptions.ts";
import { DEFAULT_VERB, type Flag, type Grammar, type Kind, type Verb } from "./grammar.ts";

export function zshScript({ verbs, flags }: Grammar): string {
  const usual = verbs.find(({ name }) => name === DEFAULT_VERB);
  return `#compdef sqlfuse
# Completion of sqlfuse for zsh. In ~/.zshrc, after compinit: source <(sqlfuse completion zsh)

_sqlfuse() {
  local -a verbs
  verbs=(
${verbs.flatMap(({ name, aliases, summary }) => [name, ...aliases].map((word) => `    ${quote(`${word}:${summary}`)}`)).join("\n")}
  )
  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
    _describe -t commands command verbs
    _files
    return
  fi
  local verb=$words[2]
  case $verb in
${verbs.map(caseOf).join("\n")}
    *)
      _arguments -S \\
${[...flags.flatMap(flagSpecs), ...(usual === undefined ? [] : specsOf(usual))].map(line).join(" \\\n")}
      ;;
  esac
}

_sqlfuse_mounted() {
  local -a points
  points=(\${(f)"$(awk '$3 == "fuse.sqlfuse" { print $2 }' /proc/mounts 2>/dev/null)"})
  # The kernel writes a space as \\040.
  points=(\${(g:o:)points})
  compadd -f -a points
  _files
}

_sqlfuse_mountoptions() {
  _values -s , option ${MOUNT_OPTION_WORDS.map((word) => quote(word.replace(/=$/, ":value: "))).join(" ")}
}

if [[ $funcstack[1] == _sqlfuse ]]; then
  _sqlfuse "$@"
else
  compdef _sqlfuse sqlfuse
fi
`;
}

function caseOf(verb: Verb): string {
  const { name, aliases } = verb;
  return `    ${[name, ...aliases].join(" | ")})
      shift words
      (( CURRENT-- ))
      _arguments -S \\
${specsOf(verb).map(line).join(" \\\n")}
      ;;`;
}

function line(spec: string): string {
  return `        ${quote(spec)}`;
}

function specsOf({ flags, args, repeats }: Verb): string[] {
  const positions = args.map((kind, i) => {
    const position = repeats && i === args.length - 1 ? "*" : `${i + 1}`;
    return `${position}:argument:${actionOf(kind)}`;
  });
  return [...flags.flatMap(flagSpecs), ...positions];
}

/** "(-m --mode)-m+[its mode]:value: " */
function flagSpecs({ names, help, value }: Flag): string[] {
  const others = names.length > 1 ? `(${names.join(" ")})` : "";
  const text = help.replace(/[\\[\]]/g, "\\$&");
  return names.map((name) => {
    if (value === undefined) return `${others}${name}[${text}]`;
    return `${others}${name}${name.startsWith("--") ? "=" : "+"}[${text}]:value:${actionOf(value)}`;
  });
}

function actionOf(kind: Kind): string {
  switch (kind) {
    case "nothing":
      return " ";
    case "files":
      return "_files";
    case "directories":
      return "_files -/";
    case "mounted":
      return "_sqlfuse_mounted";
    case "mountoptions":
      return "_sqlfuse_mountoptions";
    default:
      return `(${kind.join(" ")})`;
  }
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
