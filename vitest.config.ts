import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { conditions: ['viommu-source'] },
  ssr: { resolve: { conditions: ['viommu-source'] } },
  test: {
    include: ['packages/*/src/**/*.test.ts', '{conformance,examples,scripts}/**/*.test.ts'],
    testTimeout: 120_000,
    maxWorkers: '100%',
  },
});
