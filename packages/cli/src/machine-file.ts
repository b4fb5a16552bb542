import { readFileSync } from 'node:fs';
import {
  machineKeys,
  machineSchema,
  type MachineDescription,
} from '@viommu/core/machine/machine-file/description';
import { isMap, isNode, isScalar, LineCounter, parseDocument, type Document } from 'yaml';
import { systemReason, UsageError } from './usage-error.ts';

function lineOf(document: Document, lines: LineCounter, path: readonly PropertyKey[]): number {
  // The deepest part of the path that the file has says best where to look.
  for (let depth = path.length; depth >= 0; depth--) {
    const node: unknown = document.getIn(path.slice(0, depth), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}

function lineOfKey(
  document: Document,
  lines: LineCounter,
  path: readonly PropertyKey[],
  key: string,
): number {
  const map: unknown = document.getIn(path, true);
  const pair = isMap(map)
    ? map.items.find((each) => isScalar(each.key) && each.key.value === key)
    : undefined;
  if (isNode(pair?.key) && pair.key.range) return lines.linePos(pair.key.range[0]).line;
  return lineOf(document, lines, path);
}

/** What a value should be, by the name that zod has for it. */
const KINDS: Readonly<Record<string, string>> = {
  array: 'a list: a line with - for each entry',
  boolean: 'true or false',
  int: 'a whole number',
  number: 'a number',
  object: 'keys with values',
  record: 'keys with values',
  string: 'a text',
};

type ZodIssue = NonNullable<ReturnType<typeof machineSchema.safeParse>['error']>['issues'][number];

/** What is wrong with a value and what would be right, in words. */
function explain(issue: ZodIssue, missing: boolean): string {
  const is = missing ? 'is missing; it should be' : 'should be';
  switch (issue.code) {
    case 'invalid_type':
      return `${is} ${KINDS[issue.expected] ?? issue.expected}`;
    case 'invalid_value':
      return `${is} ${issue.values.length > 1 ? 'one of ' : ''}${issue.values.join(', ')}`;
    case 'too_small':
      return issue.origin === 'string' ? 'should not be empty' : `should be at least ${issue.minimum}`;
    case 'too_big':
      return `should be at most ${issue.maximum}`;
    default:
      return issue.message;
  }
}

/** Reads a machine file. Throws {@link UsageError} with file, line, key and what would be right. */
export function loadMachineFile(path: string): MachineDescription {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`${path}: cannot be read (${systemReason(error)})`);
  }
  return parseMachine(path, text);
}

/** A place in a machine file as messages name it: file, line and keys. */
export function placeInFile(path: string, keys: readonly (string | number)[]): string {
  const lines = new LineCounter();
  const document = parseDocument(readFileSync(path, 'utf8'), { lineCounter: lines, prettyErrors: false });
  return `${path}:${lineOf(document, lines, keys)}: ${keys.join('.')}`;
}

/** The keys of what a machine file says of the device that a reason begins with; none where it begins with none. */
export function keysOfDevice({ devices }: MachineDescription, reason: string): (string | number)[] {
  const at = devices.findIndex(({ name }) => reason.startsWith(`${name}: `));
  if (at < 0) return [];
  const part =
    devices[at]?.disk !== undefined ? 'disk' : devices[at]?.console !== undefined ? 'console' : null;
  return ['devices', at, ...(part === null ? [] : [part])];
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
    const key = issue.path.join('.');
    if (issue.code === 'unrecognized_keys') {
      const unknown = issue.keys[0]!;
      const line = lineOfKey(document, lines, issue.path, unknown);
      const where = key === '' ? '' : `${key}: `;
      const known = machineKeys(issue.path).join(', ');
      return `${path}:${line}: ${where}there is no key '${unknown}'; there are ${known}`;
    }
    const message = explain(issue, !document.hasIn(issue.path));
    const place = `${path}:${lineOf(document, lines, issue.path)}`;
    return key === '' ? `${place}: a machine ${message}` : `${place}: ${key}: ${message}`;
  });
  throw new UsageError(messages.join('\n'));
}
