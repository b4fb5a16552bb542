import { describeRules } from '../../testing/rules.ts';
import { ATTRIBUTES } from './rules/attributes.ts';
import { COMMANDS } from './rules/commands.ts';
import { CONTEXTS } from './rules/context-descriptors.ts';
import { FAULTS } from './rules/faults.ts';
import { PCIE } from './rules/pcie.ts';
import { QUEUES } from './rules/queues.ts';
import { REGISTER_RULES } from './rules/registers.ts';
import { STREAMS } from './rules/streams.ts';
import { TRANSLATION } from './rules/translation.ts';

describeRules('IHI 0070G.b', 250, {
  registers: REGISTER_RULES,
  queues: QUEUES,
  streams: STREAMS,
  contexts: CONTEXTS,
  translation: TRANSLATION,
  attributes: ATTRIBUTES,
  commands: COMMANDS,
  faults: FAULTS,
  pcie: PCIE,
});
