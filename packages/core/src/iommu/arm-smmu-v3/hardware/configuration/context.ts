// What translation works on and what it ends in, between configuration (config-table.ts) and the translator.

import type { CacheDomain } from '../../../caches/cache.ts';
import type { Stage1Region } from '../../../../pagetable/armv8-stage1.ts';
import type { ContextConfig } from './context-config.ts';
import type { Regime, Tag } from '../translation/iotlb.ts';
import type { StreamConfig } from './stream-config.ts';
import type { EventType } from '../transaction.ts';

/** Everything that translating an address needs, from the configuration of a stream and a substream. */
export interface Context {
  readonly stream: StreamConfig;
  /** Null where stage 1 is bypassed. */
  readonly cd: ContextConfig | null;
  readonly regime: Regime;
  readonly asid: Tag;
  readonly global: Tag;
  /** The STE overrides no attributes. */
  readonly plain: boolean;
  // What every transaction needs of the above, one step nearer.
  /** The halves of stage 1; null where stage 1 is bypassed, the second also where there is one. */
  readonly lower: Stage1Region | null;
  readonly upper: Stage1Region | null;
  /** The same, null where Translator.quick() must not answer: tags, E0PD, overridden attributes. */
  readonly quickLower: Stage1Region | null;
  readonly quickUpper: Stage1Region | null;
  readonly va: CacheDomain;
  /** Stage 2 alone may be answered quickly: it overrides nothing. Bits of the upper word that an IPA must not have. */
  readonly quickIpa: boolean;
  readonly ipaTop: number;
}

/** A fault of translation. */
export interface TranslationFault {
  readonly type: EventType;
  readonly stage2: boolean;
  readonly class: number;
  /** Where `stage2`: the IPA that faulted. */
  readonly ipa: number;
  /** F_WALK_EABT: the descriptor's physical address. */
  readonly fetch: number;
  /** F_PERMISSION of class TT: stage 1 read (rather than updated) its descriptor. */
  readonly ttRead: boolean;
}
