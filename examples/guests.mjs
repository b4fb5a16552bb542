#!/usr/bin/env node
// One guest on the IOMMUs of three vendors: it brings its own IOMMU up, gives a device page tables, forgets an
// invalidation, uses a PASID, and serves a page fault. docs/vmm.md
//
// guests.mjs [TYPE ...] [--requests] [--trace]
//
//   TYPE         arm-smmu-v3, intel-iommu or amd-iommu; all three without one
//   --requests   with the requests that the VMM made for it, and the commands that reached the IOMMU
//   --trace      with everything that the kernel and the IOMMU did

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/** What a machine needs beside an IOMMU of the type. PCI functions stall at an SMMU that does nothing else. */
const MACHINES = {
  'arm-smmu-v3': { registers: { IDR0: { STALL_MODEL: 2 } }, ats: false, uapis: [] },
  'intel-iommu': { ats: true, uapis: [] },
  'amd-iommu': { ats: true, uapis: ['amd-viommu'] },
};
const IOVA = 0x1234_5000n;
/** What the guest calls its device, and a PASID of its. */
const DEVICE = 0x18;
const PASID = 5;

async function load() {
  return Object.assign(
    {},
    ...(await Promise.all([
      import('@viommu/core/machine/machine-file/description'),
      import('@viommu/core/machine/kernel'),
      import('@viommu/core/machine/machine-file/parts'),
      import('@viommu/core/trace/text'),
      import('@viommu/core/vmm/guests/boot'),
      import('@viommu/core/vmm/guests/dma-engine'),
      import('@viommu/core/vmm/virtual-machine'),
    ])),
  );
}

/** What must have succeeded: failures are values that say why. */
function must(result) {
  if (result instanceof Error || result?.reason !== undefined) throw new Error(result.reason);
  return result;
}

/** A machine with a DMA engine behind an IOMMU. */
async function machine(core, type) {
  const { registers, ats, uapis } = MACHINES[type];
  const description = core.machineSchema.parse({
    iommus: [{ name: 'iommu0', type, ...(registers && { registers }) }],
    devices: [{ name: '0000:01:00.0', iommu: 'iommu0', model: 'dma-engine', ats, pasids: 64 }],
  });
  return new core.Kernel({ parts: await core.loadParts(description), uapis });
}

/** The name of a request of the VMM, or of a command that the IOMMU takes. */
function nameOf(event) {
  if (event.kind === 'ioctl' || event.kind === 'command') return event.name;
  return event.kind === 'vfio' ? event.request : null;
}

/** Counts them by name, from one call to the next. */
function counter(trace) {
  const seen = new Map();
  trace.subscribe((event) => {
    const name = nameOf(event);
    if (name !== null) seen.set(name, (seen.get(name) ?? 0) + 1);
  });
  return () => {
    const text = [...seen].map(([name, times]) => (times > 1 ? `${times} ${name}` : name)).join(', ');
    seen.clear();
    return text;
  };
}

/** What the guest does, told line by line. */
function play(core, kernel, tell) {
  const vm = must(core.VirtualMachine.create(kernel));
  const device = must(vm.openDevice('/dev/vfio/devices/vfio0'));
  const { iommu, driver } = must(core.bootGuest(vm, new Map([[DEVICE, device]])));
  const { pages } = driver;
  tell('the VMM has an iommufd and a device; the guest has brought its IOMMU up');

  const read = (pasid) => {
    const bytes = device.dmaRead(IOVA, 3, pasid ?? null);
    return bytes instanceof Uint8Array ? `"${String.fromCharCode(...bytes)}"` : 'nothing: a fault';
  };

  const space = driver.space();
  space.tables.map(IOVA, pages.page('old'));
  driver.attach(DEVICE, space);
  tell('the guest has built page tables in its memory, and told its IOMMU');
  tell(`the device reads through them: ${read()}`);
  space.tables.map(IOVA, pages.page('new'));
  tell(`the guest maps another page, and says nothing: ${read()}`);
  driver.invalidate(DEVICE, space, IOVA);
  tell(`it invalidates: ${read()}`);

  const other = driver.space();
  driver.attach(DEVICE, other, PASID);
  other.tables.map(IOVA, pages.page('sva'));
  tell(`PASID ${PASID} has an address space of its own: ${read(PASID)}`);

  const engine = new core.DmaEngineGuest(device);
  const state = engine.store({ iova: IOVA + 0x1000n, pasid: PASID }, 3, 0x21);
  tell(`the device writes to a page of PASID ${PASID} that is not there, and is ${state}`);
  iommu.poll();
  const request = driver.pageRequest();
  const answer = pages.take();
  other.tables.map(request.address, answer);
  driver.answer(request, true);
  tell(
    `the guest is asked for 0x${request.address.toString(16)}, maps it and answers: ${engine.state}, "${pages.text(answer, 3)}"`,
  );

  driver.detach(DEVICE);
  tell(`it takes the tables away: ${read()}`);
  vm.exit();
  tell('the VMM ends');
}

/** Plays the guest on an IOMMU, and prints what happens. */
export async function run(type, { requests = false, trace = false } = {}, print = console.log) {
  const core = await load();
  const kernel = await machine(core, type);
  if (trace) kernel.trace.subscribe((event) => print(`      ${core.eventText(event)}`));
  const between = counter(kernel.trace);
  print(type);
  play(core, kernel, (line) => {
    print(`  ${line}`);
    const done = between();
    if (requests && done !== '') print(`      ${done}`);
  });
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { requests: { type: 'boolean' }, trace: { type: 'boolean' } },
  });
  const types = positionals.length > 0 ? positionals : Object.keys(MACHINES);
  for (const type of types)
    if (!(type in MACHINES))
      throw new Error(`There is no IOMMU of type ${type}; there are ${Object.keys(MACHINES).join(', ')}.`);
  if (!existsSync(fileURLToPath(new URL('../packages/core/dist', import.meta.url))))
    throw new Error('viommu is not built yet. Build it: npm ci');
  for (const type of types) await run(type, values);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main();
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
