import { getSystemErrorMap } from 'node:util';

/** What a person typed cannot be done: the message says what, where, and what would be right. Exit status 2. */
export class UsageError extends Error {
  override name = 'UsageError';
}

/** Why the system refused a file, in words. */
export function systemReason(error: unknown): string {
  const { errno, message } = error as NodeJS.ErrnoException;
  return getSystemErrorMap().get(errno ?? 0)?.[1] ?? message;
}
