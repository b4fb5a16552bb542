import { readFileSync } from 'node:fs';
import { machineSchema, type MachineDescription } from '@viommu/core/machine/description';
import { isNode, LineCounter, parseDocument, type Document } from 'yaml';
import { UsageError } from './usage-error.ts';

function lineOf(document: Document, lines: LineCounter, path: readonly PropertyKey[]): number {
  // The deepest part of the path that the file has says best where to look.
  for (let depth = path.length; depth >= 0; depth--) {
    const node: unknown = document.getIn(path.slice(0, depth), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}

function keyLine(text: string, key: string): number {
  const at = text.split('\n').findIndex((line) => line.trimStart().startsWith(`${key}:`));
  return at < 0 ? 1 : at + 1;
}

/** Reads a machine file. Throws {@link UsageError} with file, line, key and what would be right. */
export function loadMachineFile(path: string): MachineDescription {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(
      `${path}: cannot be read (${(error as NodeJS.ErrnoException).code ?? String(error)})`,
    );
  }
  return parseMachine(path, text);
}

/** What a machine file of that text describes. `path` is for the messages. */
export function parseMachine(path: string, text: string): MachineDescription {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const syntax = document.errors[0];
  if (syntax !== undefined)
    throw new UsageError(`${path}:${lines.linePos(syntax.pos[0]).line}: not YAML: ${syntax.message}`);
  const parsed = machineSchema.safeParse(document.toJS() ?? {});
  if (parsed.success) return parsed.data;
  const messages = parsed.error.issues.map((issue) => {
    if (issue.code === 'unrecognized_keys') {
      const known = Object.keys(machineSchema.shape).join(', ');
      const key = issue.keys[0]!;
      return `${path}:${keyLine(text, key)}: there is no key '${key}'; there are ${known}`;
    }
    const key = issue.path.join('.');
    const place = `${path}:${lineOf(document, lines, issue.path)}`;
    return key === '' ? `${place}: ${issue.message}` : `${place}: ${key}: ${issue.message}`;
  });
  throw new UsageError(messages.join('\n'));
}
