// iommufd in process: mapping and unmapping beside GLib's GTree (peers/gtree.c, what QEMU keeps its IOVAs in), the event
// stream without subscribers, dirty bitmaps, invalidations, and a fault's way from a device to a program and back.
//
//   node bench/iommufd.mjs
//
// Ratios are taken in one run. Needs cc and libglib2.0-dev for the peer.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { loadCore } from './bundle.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
setFlagsFromString('--expose_gc');
const collect = runInNewContext('gc');

const SOURCE = `
export { Kernel } from '@viommu/core/machine/kernel';
export { SimulatedProcess, simulatedTask } from '@viommu/core/memory/simulated-process';
export { mapUserPages } from '@viommu/core/iommufd/ioas/ioas';
export { MockPageTable } from '@viommu/core/pagetable/mock';
export { UserBitmap } from '@viommu/core/iommufd/hwpt/dirty-bitmap';
export * from '@viommu/core/abi/iommufd';
export * from '@viommu/core/abi/iommufd-test';
`;

const STRUCT = 0x10000n;
const DATA = 0x20000n;
const BUFFER = 0x1_0000_0000n;

/** A program with an open /dev/iommu; `request` answers the struct that came back. */
function program(core) {
  const kernel = new core.Kernel();
  const process = new core.SimulatedProcess(1);
  const task = core.simulatedTask(process);
  process.capabilities.add(14);
  process.memory.map(STRUCT, 0x10000n);
  process.memory.map(DATA, 16n << 20n);
  const file = kernel.open('/dev/iommu', task);
  for (let fd = 0; fd < 4; fd++) process.open();
  process.open(file);
  const bytes = new Uint8Array(128);
  const request = (cmd, layout, fields) => {
    layout.write(bytes, 0, { ...layout.create(), size: layout.size, ...fields });
    process.memory.write(STRUCT, bytes.subarray(0, layout.size));
    const rc = file.ioctl(task, cmd, STRUCT);
    if (rc < 0) throw new Error(`${layout.name}: errno ${-rc}`);
    process.memory.read(STRUCT, bytes.subarray(0, layout.size));
    return layout.read(bytes);
  };
  const test = (op, layout, fields) => request(core.IOMMU_TEST_CMD, layout, { op, ...fields });
  return { kernel, process, task, file, request, test };
}

function newIoas(core, p) {
  const { out_ioas_id: id } = p.request(core.IOMMU_IOAS_ALLOC, core.iommu_ioas_alloc, {});
  return { id, object: p.file.objects.get(id, 'IOAS') };
}

let state = 88172645463325252n;
function random(below) {
  state ^= BigInt.asUintN(64, state << 13n);
  state ^= state >> 7n;
  state ^= BigInt.asUintN(64, state << 17n);
  return Number(state % BigInt(below));
}

function shuffledIovas(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random(i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return Array.from(order, (n) => BigInt(n) * 8192n + 65536n);
}

/** Nanoseconds per map and per unmap of `count` mappings, in random orders. */
function mapUnmap(core, count) {
  const p = program(core);
  const { object: ioas } = newIoas(core, p);
  const orders = [shuffledIovas(count), shuffledIovas(count)];
  const round = () => {
    const t0 = performance.now();
    for (const iova of orders[0]) core.mapUserPages(p.file, ioas, iova, DATA, 4096n, 3);
    const t1 = performance.now();
    for (const iova of orders[1]) ioas.iopt.unmap(iova, 4096n);
    return [t1 - t0, performance.now() - t1];
  };
  const rounds = Math.max(2, Math.floor(400_000 / count));
  for (let i = 0; i < Math.ceil(rounds / 4); i++) round();
  collect();
  const spent = [0, 0];
  for (let i = 0; i < rounds; i++) round().forEach((ms, phase) => (spent[phase] += ms));
  return spent.map((ms) => (ms * 1e6) / count / rounds);
}

function bytesPerMapping(core, count) {
  const p = program(core);
  const { object: ioas } = newIoas(core, p);
  for (let i = 0; i < 3; i++) collect();
  const before = process.memoryUsage();
  for (let i = 0; i < count; i++) core.mapUserPages(p.file, ioas, BigInt(i) * 8192n + 65536n, DATA, 4096n, 3);
  for (let i = 0; i < 3; i++) collect();
  const after = process.memoryUsage();
  const bytes = (after.heapUsed + after.external - before.heapUsed - before.external) / count;
  p.file.release();
  return bytes;
}

function compilePeer(scratch) {
  const gtree = join(scratch, 'gtree');
  const flags = execFileSync('pkg-config', ['--cflags', '--libs', 'glib-2.0'], { encoding: 'utf8' });
  execFileSync('cc', ['-O2', '-o', gtree, join(here, 'peers/gtree.c'), ...flags.trim().split(/\s+/)]);
  return (count, rounds) =>
    JSON.parse(execFileSync(gtree, [String(count), String(rounds)], { encoding: 'utf8' }));
}

function peerOrNull(scratch) {
  try {
    return compilePeer(scratch);
  } catch {
    console.log("GLib's GTree: not measured, for want of cc, pkg-config or libglib2.0-dev");
    return null;
  }
}

function benchMapUnmap(core) {
  const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
  try {
    const peer = peerOrNull(scratch);
    for (const count of [1e3, 1e5, 1e6]) {
      const [map, unmap] = mapUnmap(core, count);
      const c = peer?.(count, Math.max(1, Math.floor(400_000 / count)));
      const beside = c
        ? `GTree ${(c.map + c.unmap).toFixed(0)} ns, ratio ${((map + unmap) / (c.map + c.unmap)).toFixed(2)}`
        : '';
      console.log(
        `ioas map+unmap  ${count} mappings: map ${map.toFixed(0)} ns, unmap ${unmap.toFixed(0)} ns; ${beside}`,
      );
    }
    console.log(
      `ioas memory     ${bytesPerMapping(core, 200_000).toFixed(0)} bytes per mapping${peer ? `; GTree ${peer(100_000, 1).bytes.toFixed(0)}` : ''}`,
    );
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

// The same core with the tests for a subscriber cut out of its sources.
const withoutTrace = {
  name: 'without-trace',
  setup(build) {
    build.onLoad({ filter: /packages\/core\/src\/(iommufd|iommu|memory)\/.*\.ts$/ }, ({ path }) => ({
      contents: readFileSync(path, 'utf8').replace(
        /(this\.(#)?)?(context\.)?(kernel\.)?(#kernel\.)?trace\.active/g,
        'false',
      ),
      loader: 'ts',
    }));
  },
};

async function benchEventStream(core) {
  const bare = await loadCore(SOURCE, [withoutTrace]);
  const fastest = [Infinity, Infinity];
  for (let i = 0; i < 20; i++) {
    for (const which of i % 2 === 0 ? [0, 1] : [1, 0]) {
      const spent = mapUnmap([core, bare][which], 2e3).reduce((a, b) => a + b);
      fastest[which] = Math.min(fastest[which], spent);
    }
  }
  const cost = (fastest[0] / fastest[1] - 1) * 100;
  console.log(`event stream    without subscribers: ${cost.toFixed(1)} % of map+unmap (fastest of 20 each)`);
}

/** A TiB in dirty pages of 2 MiB: the mock's own table ends at 256 GiB, so this one starts a level higher. */
function benchDirty(core) {
  const TIB = 1n << 40n;
  const HUGE = 2n << 20n;
  const process = new core.SimulatedProcess(1);
  process.memory.map(BUFFER, TIB / 4096n / 8n);
  const table = new core.MockPageTable({ startingLevel: 3 });
  // Every other frame, so that neighbours do not become one entry.
  for (let at = 0n; at < TIB; at += HUGE) {
    const failure = table.map(at, Number(2n * at), HUGE, 3);
    if (failure !== undefined) throw new Error(failure.reason);
    table.setDirty(at);
  }
  for (const pageSize of [4096n, HUGE]) {
    const t0 = performance.now();
    const bitmap = new core.UserBitmap(process.memory, BUFFER, 0n, TIB, pageSize);
    table.readAndClearDirty(0n, TIB, false, (iova, length) => bitmap.set(iova, length));
    bitmap.flush();
    console.log(
      `dirty bitmap    1 TiB at ${pageSize / 1024n} KiB: ${(performance.now() - t0).toFixed(0)} ms`,
    );
  }
}

function nestedSetup(core, p) {
  const { id } = newIoas(core, p);
  const { out_idev_id: dev, out_stdev_id: stdev } = p.test(
    core.IOMMU_TEST_OP_MOCK_DOMAIN,
    core.iommu_test_cmd_mock_domain,
    { id },
  );
  const alloc = (fields) =>
    p.request(core.IOMMU_HWPT_ALLOC, core.iommu_hwpt_alloc, { dev_id: dev, ...fields }).out_hwpt_id;
  const parent = alloc({ pt_id: id, flags: core.IOMMU_HWPT_ALLOC_NEST_PARENT });
  p.process.memory.write(DATA, new Uint8Array(8));
  const { out_fault_id: fault, out_fault_fd: fd } = p.request(
    core.IOMMU_FAULT_QUEUE_ALLOC,
    core.iommu_fault_alloc,
    {},
  );
  const nested = alloc({
    pt_id: parent,
    flags: core.IOMMU_HWPT_FAULT_ID_VALID,
    fault_id: fault,
    data_type: core.IOMMU_HWPT_DATA_SELFTEST,
    data_len: 4,
    data_uptr: DATA,
  });
  p.test(core.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, core.iommu_test_cmd_mock_domain_replace, {
    id: stdev,
    pt_id: nested,
  });
  return { dev, nested, fd };
}

function benchInvalidate(core) {
  const p = program(core);
  const { nested } = nestedSetup(core, p);
  const batch = 500_000;
  const total = 1_000_000;
  p.process.memory.map(BUFFER, BigInt(batch * 8));
  p.process.memory.write(BUFFER, new Uint8Array(batch * 8));
  const t0 = performance.now();
  for (let done = 0; done < total; done += batch) {
    p.request(core.IOMMU_HWPT_INVALIDATE, core.iommu_hwpt_invalidate, {
      hwpt_id: nested,
      data_uptr: BUFFER,
      data_type: core.IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
      entry_len: 8,
      entry_num: batch,
    });
  }
  const ms = performance.now() - t0;
  console.log(
    `invalidation    ${total} entries: ${ms.toFixed(0)} ms, ${((ms * 1e6) / total).toFixed(0)} ns each`,
  );
}

function benchFault(core) {
  const p = program(core);
  const { dev, fd } = nestedSetup(core, p);
  const queue = p.process.file(fd);
  const record = new Uint8Array(40);
  const answer = new Uint8Array(8);
  const rounds = 20_000;
  const once = () => {
    p.test(core.IOMMU_TEST_OP_TRIGGER_IOPF, core.iommu_test_cmd_trigger_iopf, { dev_id: dev, addr: 0x1000n });
    queue.read(p.task, DATA, 40);
    p.process.memory.read(DATA, record);
    answer.set(record.subarray(36, 40));
    p.process.memory.write(DATA, answer);
    if (queue.write(p.task, DATA, 8) !== 8) throw new Error('the fault was not answered');
  };
  for (let i = 0; i < 2000; i++) once();
  const t0 = performance.now();
  for (let i = 0; i < rounds; i++) once();
  console.log(
    `fault           device to read and back: ${(((performance.now() - t0) * 1e3) / rounds).toFixed(2)} us`,
  );
}

const core = await loadCore(SOURCE);
benchMapUnmap(core);
await benchEventStream(core);
benchDirty(core);
benchInvalidate(core);
benchFault(core);
