// Runs a program of Linux's kselftest harness, and reads what it prints.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** Lines shown of a program that died. */
const LAST_MAX = 10;
const terminal = process.stderr.isTTY === true;

/**
 * Plays the program; the reader has seen all that it printed when this resolves: to null, or why it did not end well.
 *
 * @param {string[]} command
 * @param {{ timeout: number, verbose: boolean }} options seconds; whether its lines are shown
 * @param {import('./tap.mjs').TapReader} reader
 * @param {string[]} last gets its last lines
 * @returns {Promise<string | null>}
 */
export function play(command, options, reader, last) {
  return new Promise((resolve) => {
    // One pipe for both streams: the harness prints results on stdout and reasons on stderr. Linux's tests pin much memory.
    const script = 'ulimit -S -l "$(ulimit -H -l)" 2>/dev/null; exec "$@" 2>&1';
    const shell = ['-c', script, 'sh', ...command];
    const child = spawn('sh', shell, { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
    const take = (line) => {
      if (options.verbose) console.log(line);
      reader.line(line);
      if (last.push(line) > LAST_MAX) last.shift();
      if (terminal && !options.verbose) {
        process.stderr.write(
          `\r\x1b[K${reader.tests.length}/${reader.planned ?? '…'} ${reader.running ?? ''}`,
        );
      }
    };
    createInterface({ input: child.stdout }).on('line', take);
    let end = null;
    // The group: viommu's program is a child of viommu.
    const stop = (why) => {
      end = why;
      process.kill(-child.pid, 'SIGKILL');
    };
    const timer = setTimeout(() => stop(`did not end within ${options.timeout} s`), options.timeout * 1000);
    const signals = ['SIGINT', 'SIGTERM'].map((name) => {
      const stopped = () => stop(`was stopped by ${name}`);
      process.once(name, stopped);
      return [name, stopped];
    });
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      for (const [name, stopped] of signals) process.off(name, stopped);
      if (terminal && !options.verbose) process.stderr.write('\r\x1b[K');
      // 0 to 4 are what the harness ends with.
      const ended = signal !== null ? `was killed by ${signal}` : `ended with status ${status}`;
      resolve(end ?? (signal !== null || status > 4 ? ended : null));
    });
  });
}
