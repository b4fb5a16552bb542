import { errnoName } from '../abi/errno.ts';
import type { TraceEvent } from './trace.ts';

// The text form of the event stream: one event a line, to read, to search and to attach to a report.

function valueText(value: unknown): string {
  if (typeof value === 'bigint') return value < 10n ? String(value) : `0x${value.toString(16)}`;
  if (typeof value === 'number') return Math.abs(value) < 4096 ? String(value) : `0x${value.toString(16)}`;
  if (value instanceof Uint8Array)
    return Array.from(value, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (Array.isArray(value)) return `[${value.map(valueText).join(' ')}]`;
  if (typeof value === 'object' && value !== null) return `{${fieldsText(value)}}`;
  return String(value);
}

function fieldsText(fields: object): string {
  return Object.entries(fields)
    .map(([name, value]) => `${name}=${name === 'pid' ? String(value) : valueText(value)}`)
    .join(' ');
}

function ioctlText(event: TraceEvent): string {
  const { pid, tid, name, fields, changed, errno, reason, result } = event;
  const head = `${String(pid)}${tid === pid ? '' : `/${String(tid)}`} ${String(name)} ${fieldsText(fields as object)}`;
  if (errno !== undefined) return `${head} = -1 ${errnoName(errno as number)} (${String(reason)})`;
  const outcome = fieldsText(changed as object);
  return `${head} = ${valueText(result)}${outcome === '' ? '' : ` ${outcome}`}`;
}

/** One event as one line, without its end. */
export function eventText(event: TraceEvent): string {
  if (event.kind === 'ioctl') return ioctlText(event);
  const { kind, ...fields } = event;
  return `${kind} ${fieldsText(fields)}`;
}
