#!/usr/bin/env node
// Plays a folder of scripts on a real kernel, in QEMU, and writes what it answered.
//
// record.mjs DIR [--kernel linux-7.3] [--image FILE] [--batch N] [--timeout SECONDS]
//
//   DIR         has the scripts, in scripts/*.s or *.s. The transcripts go to DIR/KERNEL/*.out, and
//               `node conformance/transcripts/run.mjs DIR --kernel KERNEL` compares viommu with them
//   --image     the kernel; without it what build.mjs made of that release
//   --batch     scripts in one boot (5000)
//   --timeout   of a boot (1800)
//
// A script at which the kernel warned, or whose runner did not end well, is told and has no transcript.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { commandLine, atLeastOne, usage } from '../command-line.mjs';
import { runScript, Trouble } from '../debian/apt.mjs';
import { ensureQemu } from '../qemu/tree.mjs';
import { imageOf, playOnLinux } from './play.mjs';

function readScripts(directory) {
  const from = existsSync(`${directory}/scripts`) ? `${directory}/scripts` : directory;
  if (!existsSync(from)) throw new Trouble(`there is no ${directory}`);
  const names = readdirSync(from).filter((name) => name.endsWith('.s'));
  if (names.length === 0) throw new Trouble(`there is no script (*.s) in ${from}`);
  return names.sort().map((name) => [name, readFileSync(`${from}/${name}`, 'utf8')]);
}

/** Writes the transcript of a script; answers init.c's first note on it, or null. */
function write(into, name, lines) {
  const note = lines.find((line) => line.startsWith('!!'));
  if (note !== undefined) return note.slice(3);
  writeFileSync(`${into}/${name.replace(/\.s$/, '.out')}`, `${lines.join('\n')}\n`);
  return null;
}

async function main() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: {
      kernel: { type: 'string', default: 'linux-7.3' },
      image: { type: 'string' },
      batch: { type: 'string', default: '5000' },
      timeout: { type: 'string', default: '1800' },
    },
  });
  const [directory] = positionals;
  if (directory === undefined || positionals.length > 1) usage('takes one directory');
  const batch = atLeastOne('--batch', values.batch);
  const timeout = atLeastOne('--timeout', values.timeout);
  const release = values.kernel.replace(/^linux-/, '');
  const image = values.image ?? imageOf(release);
  if (!existsSync(image))
    throw new Trouble(`there is no ${image}: node conformance/oracle/build.mjs ${release}`);
  const scripts = readScripts(directory);
  ensureQemu('x86');
  const into = `${directory}/${values.kernel}`;
  mkdirSync(into, { recursive: true });
  let written = 0;
  for (let at = 0; at < scripts.length; at += batch) {
    const { transcripts, trouble } = await playOnLinux(
      image,
      new Map(scripts.slice(at, at + batch)),
      timeout,
    );
    for (const [name, lines] of transcripts) {
      const note = write(into, name, lines);
      if (note === null) written++;
      else console.log(`${name}: ${note}`);
    }
    if (trouble !== null) throw new Trouble(`the kernel did not come to its end:\n${trouble}`);
  }
  console.log(`${written} of ${scripts.length} transcripts written to ${into}`);
}

await runScript('record.mjs', main);
