// DMA of a device through a nested SMMUv3 into the memory of a program, beside process_vm_readv(2) of the same bytes in C
// (peers/vm-readv.c): a read of 4 KiB and of 1 MiB, through stage 1 tables of 4 KiB pages in the guest's memory and the
// host's stage 2, out of the IOTLB. `ratio` is C's time over ours: of the speed of C that is left.
//
//   node bench/dma.mjs
//
// The program's memory is private, as a VMM's RAM is where nobody says otherwise. Needs cc.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadCore } from './bundle.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const ADDON = `${here}../packages/host/native/build/viommu.node`;
const RAM = 64 << 20;
/** What the device reads of it: behind the guest's tables. */
const DATA_AT = 16 << 20;
const DATA = 8 << 20;
const SIZES = [4096, 1 << 20];
const ROUNDS = 60;

const SOURCE = `
export { armSmmuV3 } from '@viommu/core/machine/arm-smmu-v3';
export { Kernel } from '@viommu/core/machine/kernel';
export { SimulatedProcess } from '@viommu/core/memory/simulated-process';
export { Program } from '@viommu/core/vmm/program';
export { VirtualMachine } from '@viommu/core/vmm/virtual-machine';
export { BareDevice } from '@viommu/core/pci/bare-device';
export { VirtualSmmu } from '@viommu/core/vmm/smmuv3/virtual-smmu';
export { GuestPages } from '@viommu/core/vmm/guests/guest-pages';
export { SmmuGuest } from '@viommu/core/vmm/guests/smmuv3';
export { HostAddressSpace } from '@viommu/host/address-space';
export { Mailbox } from '@viommu/host/native';
`;
const BASE = 0x4000_0000;
const SID = 0x18;
const ASID = 1;
const IOVA = 0x10_0000_0000n;

function must(result) {
  if (result?.errno !== undefined) throw new Error(result.reason);
  return result;
}

/** A vendor whose functions are kept where the benchmark finds them. */
function observed(vendor, ports) {
  return {
    ...vendor,
    start(kernel) {
      const driver = vendor.start(kernel);
      return {
        addUnit(...about) {
          const unit = must(driver.addUnit(...about));
          return {
            addFunction(...part) {
              const placed = must(unit.addFunction(...part));
              ports.push(placed.port);
              return placed;
            },
          };
        },
      };
    },
  };
}

/** Another process's memory, as the supervisor has it between calls. */
function memoryOf(core, pid) {
  const native = createRequire(import.meta.url)(ADDON);
  const box = new core.Mailbox(native.create([]));
  const current = { tid: 0, memory: null, prefetchVa: 0n, prefetched: 0 };
  return new core.HostAddressSpace({ native, box, current, shared: null, isPlaceholder: () => false }, pid);
}

/** A VMM whose requests are ours and whose guest's RAM is that process's memory, from `va` on. */
function processWith(core, ram, va) {
  const process = new core.SimulatedProcess(1);
  const own = process.memory;
  const of = (at) => (at >= va && at < va + BigInt(RAM) ? ram : own);
  process.memory = {
    id: own.id,
    alive: true,
    lockedPages: 0,
    pinnedPages: 0,
    map: (...about) => own.map(...about),
    read: (at, into) => of(at).read(at, into),
    write: (at, from) => of(at).write(at, from),
    mappings: (start, last) => of(start).mappings(start, last),
  };
  return process;
}

/** A guest in that memory, and the port of its device. */
function makeGuest(core, pid, va) {
  const ports = [];
  const part = {
    name: '0000:01:00.0',
    requesterId: 0x20,
    iommu: 'smmu0',
    pasids: 0,
    ats: false,
    model: (features) => new core.BareDevice(features),
  };
  const iommu = { name: 'smmu0', vendor: observed(core.armSmmuV3, ports), settings: {} };
  const kernel = new core.Kernel({ parts: { iommus: [iommu], devices: [part] } });
  const program = new core.Program(kernel, 1, processWith(core, memoryOf(core, pid), va));
  const vm = must(core.VirtualMachine.of(program, { base: BASE, bytes: RAM, va }));
  const device = must(vm.openDevice('/dev/vfio/devices/vfio0'));
  const smmu = must(core.VirtualSmmu.create(vm, device));
  must(smmu.addDevice(device, SID));
  const driver = new core.SmmuGuest(new core.GuestPages(vm.memory, BASE), smmu);
  const { tables, cd } = driver.addressSpace(ASID);
  for (let at = 0; at < DATA; at += 4096) tables.map(IOVA + BigInt(at), BASE + DATA_AT + at);
  driver.attach(SID, cd);
  return ports[0];
}

/** Nanoseconds of a read of `bytes`, at places that go through the data: the fastest round. */
function timeReads(port, bytes) {
  const data = new Uint8Array(bytes);
  const count = DATA / bytes;
  let best = Infinity;
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      const request = { address: IOVA + BigInt(i * bytes), pasid: null, write: false };
      const stopped = port.access(request, data);
      if (stopped !== null) throw new Error(stopped.reason);
    }
    best = Math.min(best, ((performance.now() - start) * 1e6) / count);
  }
  if (data.some((byte) => byte !== 1)) throw new Error('the device has read something else');
  return best;
}

const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
let holder = null;
try {
  const peer = join(scratch, 'vm-readv');
  execFileSync(process.env['CC'] ?? 'cc', ['-O2', '-Wall', '-o', peer, `${here}peers/vm-readv.c`]);
  holder = spawn(peer, ['hold', String(RAM)], { stdio: ['pipe', 'pipe', 'inherit'] });
  const [line] = await once(holder.stdout, 'data');
  const [pid, address] = String(line).trim().split(' ');
  const port = makeGuest(await loadCore(SOURCE), Number(pid), BigInt(address));
  console.log('DMA through a nested SMMUv3, beside process_vm_readv(2) in C');
  for (const bytes of SIZES) {
    const at = BigInt(address) + BigInt(DATA_AT);
    const about = ['read', pid, at, bytes, DATA, ROUNDS].map(String);
    const ours = timeReads(port, bytes);
    const c = Number(execFileSync(peer, about, { encoding: 'utf8' }));
    const size = bytes < 1 << 20 ? `${bytes / 1024} KiB` : `${bytes / 2 ** 20} MiB`;
    console.log(
      `  ${size.padEnd(6)} ${(ours / 1000).toFixed(1).padStart(8)} us, C ${(c / 1000).toFixed(1)} us, ratio ${(c / ours).toFixed(2)}`,
    );
  }
} finally {
  holder?.stdin.end();
  rmSync(scratch, { recursive: true, force: true });
}
