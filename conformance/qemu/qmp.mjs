// QEMU's monitor: commands as a management program gives them (QMP, docs/interop/qmp-spec.rst).

import { connect } from 'node:net';
import { createInterface } from 'node:readline';

const WAIT_SECONDS = 30;

/**
 * Connects to a socket on which QEMU answers.
 *
 * @typedef {{ execute: (command: string, args?: object) => Promise<any>,
 *   event: (name: string) => Promise<any>, close: () => void }} Qmp `execute` rejects with QEMU's words where the command
 *   fails; `event` waits for the next one of that name
 * @returns {Promise<Qmp>}
 */
export async function connectQmp(path) {
  const socket = connect(path);
  const [answers, events] = [[], []];
  createInterface({ input: socket }).on('line', (line) => {
    const message = JSON.parse(line);
    if ('event' in message) settle(events, ({ name }) => name === message.event)?.resolve(message.data);
    else if ('error' in message) answers.shift()?.reject(new Error(message.error.desc));
    else if ('return' in message) answers.shift()?.resolve(message.return);
  });
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  socket.on('error', () => {});
  const execute = (command, args = {}) => {
    socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    return within(command, (entry) => answers.push(entry));
  };
  await execute('qmp_capabilities');
  return {
    execute,
    event: (name) => within(name, (entry) => events.push({ ...entry, name })),
    close: () => socket.destroy(),
  };
}

function settle(waiting, which) {
  const index = waiting.findIndex(which);
  return index < 0 ? undefined : waiting.splice(index, 1)[0];
}

function within(what, start) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`${what}: nothing within ${WAIT_SECONDS} s`)),
      WAIT_SECONDS * 1000,
    );
    const end = (how) => (value) => {
      clearTimeout(timer);
      how(value);
    };
    start({ resolve: end(resolve), reject: end(reject) });
  });
}
