import { describeRules } from '../../testing/rules.ts';
import { CACHES } from './rules/caches.ts';
import { CONTEXTS } from './rules/contexts.ts';
import { FAULTS } from './rules/faults.ts';
import { PASIDS } from './rules/pasids.ts';
import { FIRST_STAGE } from './rules/first-stage.ts';
import { PCIE } from './rules/pcie.ts';
import { QUEUE } from './rules/queue.ts';
import { REGISTERS } from './rules/registers.ts';
import { SECOND_STAGE } from './rules/second-stage.ts';

describeRules('D51397 rev 5.10', 150, {
  registers: REGISTERS,
  contexts: CONTEXTS,
  pasids: PASIDS,
  'first stage': FIRST_STAGE,
  'second stage': SECOND_STAGE,
  caches: CACHES,
  queue: QUEUE,
  faults: FAULTS,
  PCIe: PCIE,
});
