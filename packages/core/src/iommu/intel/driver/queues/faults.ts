import { readField } from '../../../../base/bit-fields.ts';
import { hex, hi32, lo32 } from '../../../../base/u64.ts';
import { FAULT, FRCD, FRCD_BYTES } from '../../spec/faults.ts';
import { FSTS, OFFSET } from '../../spec/registers.ts';
import type { DmarUnit } from '../dmar-unit.ts';
import { FAULTS_PER_INTERRUPT } from '../limits.ts';

// The fault recording registers: drivers/iommu/intel/dmar.c dmar_fault(). Nobody takes the records: they are logged.

/** Bit 7 of FSTS was PRO before it was reserved; Linux still clears it. */
const PRO = 1 << 7;

/** Names of the specification by fault reason. */
const CODES = new Map<number, string>();
for (const { reason, code } of Object.values(FAULT)) {
  const known = CODES.get(reason);
  CODES.set(reason, known === undefined ? code : `${known}, ${code}`);
}

export function serveFaults(unit: DmarUnit): void {
  const { mmio, features } = unit;
  const status = mmio.read32(OFFSET.FSTS);
  if (status !== 0) unit.log(`DRHD: handling fault status reg ${status.toString(16)}`);
  if ((status & FSTS.PPF.inPlace) === 0) return;
  let index = (status >>> FSTS.FRI.shift) & FSTS.FRI.mask;
  for (let taken = 0; taken < FAULTS_PER_INTERRUPT; taken++) {
    const at = features.frcdOffset + index * FRCD_BYTES;
    const last = mmio.read32(at + 12);
    const words = new Uint32Array(4);
    words[3] = last;
    if (readField(FRCD.F, words) === 0) break;
    words[2] = mmio.read32(at + 8);
    const address = mmio.read64(at);
    words[0] = lo32(address);
    words[1] = hi32(address);
    mmio.write32(at + 12, FRCD.F.inPlace);
    unit.log(faultText(words));
    index = (index + 1) % features.frcdCount;
  }
  mmio.write32(OFFSET.FSTS, FSTS.PFO.inPlace | FSTS.PPF.inPlace | PRO);
}

/** dmar_fault_do_one() */
function faultText(words: Uint32Array): string {
  const sid = readField(FRCD.SID, words);
  const device = `${(sid >>> 8).toString(16).padStart(2, '0')}:${((sid >>> 3) & 31).toString(16).padStart(2, '0')}.${sid & 7}`;
  const reason = readField(FRCD.FR, words);
  const pasid = readField(FRCD.PP, words) !== 0 ? `PASID ${hex(readField(FRCD.PV, words))}` : 'NO_PASID';
  const access = readField(FRCD.T1, words) !== 0 ? 'DMA Read' : 'DMA Write';
  const address = hex(readField(FRCD.FI, words) * 4096);
  return (
    `[${access} ${pasid}] Request device [${device}] fault addr ${address} ` +
    `[fault reason ${hex(reason)}: ${CODES.get(reason) ?? 'unknown'}]`
  );
}
