// DMA of a device through a nested SMMUv3 into the memory of a program, beside the same bytes read in C
// (peers/vm-readv.c): a read of 4 KiB and of 1 MiB, through stage 1 tables of 4 KiB pages in the guest's memory and the
// host's stage 2, out of the IOTLB. `private` is a VMM's RAM where nobody says otherwise, read by process_vm_readv(2)
// in C; `apart` is the same with no two pages of a read side by side, as a guest's own pages seldom are, a place a page
// in C; `shared` is RAM of a memory file, read by pread(2). Both sides take turns, a few milliseconds each, and
// what is printed are medians; `ratio` is C's time over ours, turn by turn: of the speed of C that is left.
//
//   node bench/dma.mjs
//
// Needs cc.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { loadCore } from './bundle.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const ADDON = `${here}../packages/host/native/build/viommu.node`;
const RAM = 64 << 20;
/** What the device reads of it: behind the guest's tables. */
const DATA_AT = 16 << 20;
const DATA = 8 << 20;
const SIZES = [4096, 1 << 20];
/** The kinds of memory, and from page to page of a read how many pages of the memory. */
const KINDS = [
  ['private', 1],
  ['apart', 97],
  ['shared', 1],
];
const ROUNDS = 100;
/** From here on malloc() always makes a mapping (DEFAULT_MMAP_THRESHOLD_MAX). */
const MAPPED = 33 << 20;

const SOURCE = `
export { armSmmuV3 } from '@viommu/core/machine/iommus/arm-smmu-v3';
export { Kernel } from '@viommu/core/machine/kernel';
export { SimulatedProcess } from '@viommu/core/memory/simulated-process';
export { Program } from '@viommu/core/vmm/program';
export { VirtualMachine } from '@viommu/core/vmm/virtual-machine';
export { BareDevice } from '@viommu/core/pci/bare-device';
export { VirtualSmmu } from '@viommu/core/vmm/smmuv3/virtual-smmu';
export { GuestPages } from '@viommu/core/vmm/guests/guest-pages';
export { SmmuGuest } from '@viommu/core/vmm/guests/smmuv3';
export { HostAddressSpace } from '@viommu/host/memory/address-space';
export { SharedFiles } from '@viommu/host/memory/shared-files';
export { Mailbox } from '@viommu/host/native';
`;
const BASE = 0x4000_0000;
const SID = 0x18;
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
  const shared = new core.SharedFiles(native, box, () => []);
  return new core.HostAddressSpace({ native, box, current, shared, isPlaceholder: () => false }, pid);
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
    readPinned: (at, into) => of(at).readPinned(at, into),
    writePinned: (at, from) => of(at).writePinned(at, from),
    gather: (places, into) => ram.gather(places, into),
    mappings: (start, last) => of(start).mappings(start, last),
  };
  return process;
}

/** A guest in that memory, and the port of its device. */
function makeGuest(core, pid, va, stride) {
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
  const space = driver.space();
  for (let at = 0; at < DATA; at += 4096)
    space.tables.map(IOVA + BigInt(at), BASE + DATA_AT + ((at * stride) % DATA));
  driver.attach(SID, space);
  return ports[0];
}

/**
 * Fresh bytes that begin where a page does, as in C: to copy pages to other places takes a fifth longer. What is so large
 * is a mapping of its own, and begins behind the two words that malloc() keeps of it.
 */
function wholePages(bytes) {
  return new Uint8Array(MAPPED).subarray(4096 - 16, 4096 - 16 + bytes);
}

/** Nanoseconds of a read of `bytes`, at places that go through the data: the faster of two rounds, as in C. */
function timeReads(port, bytes) {
  const data = wholePages(bytes);
  const count = DATA / bytes;
  let best = Infinity;
  for (let round = 0; round < 2; round++) {
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

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

/** A program of C that answers lines with lines. */
class Peer {
  constructor(program, args) {
    this.child = spawn(program, args.map(String), { stdio: ['pipe', 'pipe', 'inherit'] });
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }

  async next() {
    return (await this.lines.next()).value;
  }

  async ask(question) {
    this.child.stdin.write(`${question}\n`);
    return Number(await this.next());
  }

  end() {
    this.child.stdin.end();
  }
}

async function row(kind, port, peer, bytes) {
  const [ours, c, ratios] = [[], [], []];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push(timeReads(port, bytes));
    c.push(await peer.ask(bytes));
    ratios.push(c[round] / ours[round]);
  }
  const size = bytes < 1 << 20 ? `${bytes / 1024} KiB` : `${bytes / 2 ** 20} MiB`;
  const [us, inC] = [ours, c].map((times) => (median(times) / 1000).toFixed(1).padStart(7));
  const ratio = median(ratios).toFixed(2);
  console.log(`  ${kind.padEnd(7)} ${size} ${us} us, C ${inC} us, ratio ${ratio}`);
}

const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
const peers = [];
try {
  const program = join(scratch, 'vm-readv');
  execFileSync(process.env['CC'] ?? 'cc', ['-O2', '-Wall', '-o', program, `${here}peers/vm-readv.c`]);
  const core = await loadCore(SOURCE);
  console.log('DMA through a nested SMMUv3, beside process_vm_readv(2) and pread(2) in C');
  for (const [kind, stride] of KINDS) {
    const holder = new Peer(program, ['hold', kind, RAM]);
    peers.push(holder);
    const [pid, address, path] = (await holder.next()).split(' ');
    const at = (path === '-' ? BigInt(address) : 0n) + BigInt(DATA_AT);
    const peer = new Peer(program, ['time', pid, at, path, DATA, stride]);
    peers.push(peer);
    const port = makeGuest(core, Number(pid), BigInt(address), stride);
    for (const bytes of SIZES) await row(kind, port, peer, bytes);
  }
} finally {
  for (const peer of peers) peer.end();
  rmSync(scratch, { recursive: true, force: true });
}
