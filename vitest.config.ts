import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { conditions: ['viommu-source'] },
  ssr: { resolve: { conditions: ['viommu-source'] } },
  test: {
    include: ['packages/*/src/**/*.test.ts', '{conformance,examples,scripts}/**/*.test.ts'],
    testTimeout: 120_000,
    maxWorkers: '100%',
    // No test changes a module: loading core once for each of 170 files would be a third of what the unit tests cost.
    isolate: false,
  },
});
