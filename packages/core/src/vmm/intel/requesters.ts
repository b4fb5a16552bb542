import { fail, failed, type Result } from '../../base/result.ts';
import { hex } from '../../base/u64.ts';
import { EEXIST } from '../../abi/errno.ts';
import { IOMMU_HWPT_DATA_VTD_S1 } from '../../abi/iommufd.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { PageFaultQueue } from '../page-fault-queue.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { pasidTables, presentPasids, type PasidTables } from './guest-tables.ts';
import { ShadowDomain } from './shadow-domain.ts';
import {
  BLOCKED,
  PASS_THROUGH,
  sameWanted,
  wantedOfContext,
  wantedOfPasid,
  type GuestTable,
  type Wanted,
} from './wanted.ts';

/** Which requests of a device: those without PASID, or those with that one. */
type Key = number | null;

/** What such requests do, as the guest's tables had it when they were last looked at. */
interface Slot {
  readonly wanted: Wanted;
  /** The nested HWPT, where it has one of its own; else 0. */
  readonly hwpt: number;
  readonly shadow: ShadowDomain | null;
}

/** A device behind the guest's unit. */
export interface Requester {
  readonly device: AssignedDevice;
  readonly id: number;
  /** PASIDs of the device are below it. */
  readonly pasidLimit: number;
  /** The second stage that its nested domains lie on. */
  readonly parent: number;
  readonly slots: Map<Key, Slot>;
}

/** A nested HWPT of the guest's, and how the guest names it. */
export interface NestedSlot {
  readonly requester: Requester;
  readonly hwpt: number;
  readonly did: number;
  readonly pasid: number;
}

/** What the unit's registers say of all. */
export interface RootState {
  readonly translating: boolean;
  readonly mode: 'legacy' | 'scalable' | 'abort';
  readonly root: number;
}

const OFF: Slot = { wanted: PASS_THROUGH, hwpt: 0, shadow: null };
const NOTHING: Slot = { wanted: BLOCKED, hwpt: 0, shadow: null };

/** The devices behind a guest's unit, each attached to what the guest's tables say. */
export class Requesters {
  readonly #vm: VirtualMachine;
  readonly #faults: PageFaultQueue | null;
  readonly #trace: Trace | null;
  readonly #byId = new Map<number, Requester>();
  /** Second stages: devices share one wherever the kernel takes it. */
  readonly #parents: number[] = [];
  readonly #shadows: ShadowDomain[] = [];
  /** The domain of these requests is another now: what waited in the old one is over. */
  onAttach: (requester: Requester, pasid: number | null) => void = () => {};

  constructor(vm: VirtualMachine, faults: PageFaultQueue | null, trace: Trace | null) {
    this.#vm = vm;
    this.#faults = faults;
    this.#trace = trace;
  }

  get(id: number): Requester | undefined {
    return this.#byId.get(id);
  }

  /** A device of that id in the iommufd. */
  ofDevice(id: number): Requester | undefined {
    for (const requester of this.#byId.values()) if (requester.device.id === id) return requester;
  }

  get shadows(): readonly ShadowDomain[] {
    return this.#shadows;
  }

  *nested(): Generator<NestedSlot, void> {
    for (const requester of this.#byId.values())
      for (const { wanted, hwpt } of requester.slots.values())
        if (wanted.kind === 'nested' && hwpt !== 0)
          yield { requester, hwpt, did: wanted.did, pasid: wanted.pasid };
  }

  // ---- devices ----

  /** EEXIST where the guest has such a requester; and what the kernel says. */
  add(device: AssignedDevice, id: number, pasidLimit: number, state: RootState): Result<void> {
    if (this.#byId.has(id)) return fail(EEXIST, `the guest has a requester ${hex(id)}`);
    const parent = this.#parentFor(device);
    if (failed(parent)) return parent;
    const slots = new Map<Key, Slot>([[null, OFF]]);
    const requester: Requester = { device, id, pasidLimit, parent, slots };
    this.#byId.set(id, requester);
    this.#settle(requester, state, null);
  }

  /** Attaches the device to a second stage of the guest's memory: one that others have, or else a new one. */
  #parentFor(device: AssignedDevice): Result<number> {
    for (const parent of this.#parents) if (!failed(device.attach(parent))) return parent;
    // A device that comes later may use PASIDs.
    const parent = this.#vm.nestParent(device, true);
    if (failed(parent)) return parent;
    const attached = device.attach(parent);
    if (failed(attached)) return attached;
    this.#parents.push(parent);
    return parent;
  }

  // ---- what the guest's tables say ----

  /** Looks at the guest's tables again: at all, or at the entries of one PASID. */
  settleAll(state: RootState, pasid: number | null = null): void {
    for (const requester of this.#byId.values()) this.#settle(requester, state, pasid);
  }

  #settle(requester: Requester, state: RootState, only: number | null): void {
    if (state.translating && state.mode === 'scalable')
      return this.#settleScalable(requester, state.root, only);
    this.#detachPasids(requester, new Set());
    const { memory } = this.#vm;
    if (!state.translating) this.#change(requester, null, PASS_THROUGH);
    else if (state.mode === 'abort') this.#change(requester, null, BLOCKED);
    else this.#change(requester, null, wantedOfContext(memory, state.root, requester.id));
  }

  #settleScalable(requester: Requester, root: number, only: number | null): void {
    const { memory } = this.#vm;
    const tables = pasidTables(memory, root, requester.id);
    const wantedOf = (pasid: number): Wanted =>
      tables === null ? BLOCKED : wantedOfPasid(memory, tables, pasid);
    const ridPasid = tables?.ridPasid ?? 0;
    if (tables === null || only === null || only === ridPasid)
      this.#change(requester, null, wantedOf(ridPasid));
    const pasids = new Set(this.#pasidsOf(requester, tables, only));
    if (only === null) this.#detachPasids(requester, pasids);
    else if (only !== 0 && !pasids.has(only)) this.#change(requester, only, BLOCKED);
    for (const pasid of pasids) this.#change(requester, pasid, wantedOf(pasid));
  }

  /** PASIDs with an entry, but for 0, which the kernel keeps for requests without. */
  *#pasidsOf(
    { pasidLimit }: Requester,
    tables: PasidTables | null,
    only: number | null,
  ): Generator<number, void> {
    if (tables === null || !tables.pasids) return;
    for (const pasid of presentPasids(this.#vm.memory, tables, pasidLimit))
      if (pasid !== 0 && (only === null || only === pasid)) yield pasid;
  }

  #detachPasids(requester: Requester, stay: ReadonlySet<number>): void {
    for (const key of [...requester.slots.keys()])
      if (key !== null && !stay.has(key)) this.#change(requester, key, BLOCKED);
  }

  // ---- attaching ----

  #change(requester: Requester, key: Key, wanted: Wanted): void {
    const before = requester.slots.get(key) ?? NOTHING;
    if (sameWanted(wanted, before.wanted)) return;
    let slot = this.#attach(requester, key, wanted);
    if (failed(slot)) {
      const whose = key === null ? 'it' : `PASID ${key}`;
      this.#note(requester, `${whose} is blocked: ${slot.reason}`);
      requester.device.detach(key);
      slot = { ...NOTHING, wanted };
    }
    if (key !== null && wanted.kind === 'blocked') requester.slots.delete(key);
    else requester.slots.set(key, slot);
    this.onAttach(requester, key);
    if (before.hwpt !== 0) this.#vm.destroy(before.hwpt);
    if (before.shadow !== null) this.#leave(before.shadow);
  }

  #attach(requester: Requester, key: Key, wanted: Wanted): Result<Slot> {
    const { device, parent } = requester;
    switch (wanted.kind) {
      case 'blocked':
        device.detach(key);
        return { ...NOTHING, wanted };
      case 'pass-through': {
        const attached = device.attach(parent, key);
        return failed(attached) ? attached : { ...OFF, wanted };
      }
      case 'nested': {
        const hwpt = this.#nest(requester, key, wanted);
        return failed(hwpt) ? hwpt : { wanted, hwpt, shadow: null };
      }
      case 'shadow': {
        const shadow = this.#enter(device, wanted.table);
        return failed(shadow) ? shadow : { wanted, hwpt: 0, shadow };
      }
    }
  }

  #nest(
    requester: Requester,
    key: Key,
    wanted: Extract<Wanted, { readonly kind: 'nested' }>,
  ): Result<number> {
    const hwpt = this.#tryNest(requester, key, wanted.data, wanted.faults ? this.#faults : null);
    // A device that has no page requests cannot be attached to a domain that serves them.
    if (!failed(hwpt) || !wanted.faults) return hwpt;
    return this.#tryNest(requester, key, wanted.data, null);
  }

  #tryNest(
    { device, parent, pasidLimit }: Requester,
    key: Key,
    data: Uint8Array,
    faults: PageFaultQueue | null,
  ): Result<number> {
    const options = { faults: faults ?? undefined, pasids: pasidLimit > 0 };
    const hwpt = this.#vm.nested(device, parent, IOMMU_HWPT_DATA_VTD_S1, data, options);
    if (failed(hwpt)) return hwpt;
    const attached = device.attach(hwpt, key);
    if (!failed(attached)) return hwpt;
    this.#vm.destroy(hwpt);
    return attached;
  }

  #enter(device: AssignedDevice, table: GuestTable): Result<ShadowDomain> {
    const { did, root, levels } = table;
    const known = this.#shadows.find(
      (each) => each.table.did === did && each.table.root === root && each.table.levels === levels,
    );
    const shadow = known ?? ShadowDomain.create(this.#vm, table);
    if (failed(shadow)) return shadow;
    if (known === undefined) this.#shadows.push(shadow);
    shadow.users++;
    const attached = device.attach(shadow.ioas);
    if (!failed(attached)) return shadow;
    this.#leave(shadow);
    return attached;
  }

  #leave(shadow: ShadowDomain): void {
    shadow.users--;
    if (shadow.users > 0) return;
    this.#shadows.splice(this.#shadows.indexOf(shadow), 1);
    shadow.destroy();
  }

  #note({ device, id }: Requester, what: string): void {
    if (this.#trace?.active === true)
      this.#trace.emit({ kind: 'guest-vtd', device: device.name, requester: hex(id), what });
  }
}
