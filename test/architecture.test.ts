/** Holds the layout: who may import whom, what no file below the command line may touch, and the shape of families. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, posix } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';

const source = fileURLToPath(new URL('../src', import.meta.url));

/** The floors: a folder imports only itself and folders before it. */
const floors = [
  'base',
  'tensor',
  'formats',
  'kernel',
  'statistics',
  'ranges',
  'solvers',
  'graph',
  'passes',
  'equalization',
  'lowerings',
  'files',
  'runtime',
  'autodiff',
  'samples',
  'metrics',
  'targets',
  'pipeline',
  'executors',
  'cli',
];

/** Folders that may import less than what lies below them: `graph` and `passes` know nothing of quantization. */
const narrower: Readonly<Record<string, readonly string[]>> = {
  base: [],
  tensor: ['base'],
  graph: ['base', 'tensor'],
  passes: ['base', 'tensor', 'graph'],
};

/** The public API and its two environments, which put all folders together. */
const roots = ['index.ts', 'node.ts', 'browser.ts'];

const families = ['statistics', 'ranges', 'solvers', 'passes', 'lowerings'];

interface Ban {
  readonly what: string;
  readonly pattern: RegExp;
  /** Folders it holds for; without it, all below `cli`. */
  readonly folders?: readonly string[];
  /** True where the entry points may: they are where an environment's own means are handed in. */
  readonly entryPointsMay?: boolean;
  /** Files that may, and why. */
  readonly exceptions?: Readonly<Record<string, string>>;
}

const bans: readonly Ban[] = [
  { what: 'printing', pattern: /\bconsole\s*\./ },
  { what: 'the environment', pattern: /\bprocess\s*\.\s*env\b/ },
  {
    what: 'the clock',
    entryPointsMay: true,
    pattern:
      /\bDate\s*\.\s*now\b|\bperformance\s*\.\s*now\b|\bprocess\s*\.\s*hrtime\b|\bnew Date\(\s*\)|(?<!new )\bDate\(/,
  },
  { what: 'unseeded randomness', pattern: /\bMath\s*\.\s*random\b|\bcrypto\b.*\brandom|\bgetRandomValues\b/ },
  {
    what: 'Math.round',
    pattern: /\bMath\s*\.\s*round\b/,
    folders: ['kernel', 'solvers', 'ranges'],
    exceptions: { 'ranges/entropy.ts': 'spreads candidate bounds over histogram bins; no number is quantized' },
  },
];

interface SourceFile {
  /** Below `src`, with forward slashes. */
  readonly path: string;
  readonly folder: string;
  readonly text: string;
  /** Without comments. */
  readonly code: string;
}

/** The code without comments. Text in quotes stays, so that `'//'` in a string is no comment. */
function withoutComments(text: string): string {
  const token = /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g;
  return text.replace(token, (match) => (match.startsWith('/*') || match.startsWith('//') ? ' ' : match));
}

const files: SourceFile[] = readdirSync(source, { recursive: true, encoding: 'utf8' })
  .map((path) => path.replaceAll('\\', '/'))
  .filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts') && !path.includes('/generated/'))
  .sort()
  .map((path) => {
    const text = readFileSync(join(source, path), 'utf8');
    return { path, folder: path.includes('/') ? path.split('/')[0] : '', text, code: withoutComments(text) };
  });
const product = files.filter(({ path }) => !path.endsWith('.test.ts'));

/** Everything a file imports or exports from, also types and dynamic imports of a literal. */
function importsOf({ code }: SourceFile): string[] {
  const patterns = [
    /\bfrom\s*['"]([^'"]+)['"]/g,
    /\bimport\s*\(?\s*['"]([^'"]+)['"]/g,
    /\brequire\s*\(\s*['"]([^'"]+)['"]/g,
  ];
  return patterns.flatMap((pattern) => [...code.matchAll(pattern)].map((match) => match[1]));
}

/** The folder of `src` that a relative import leads to; undefined for packages, '' for the roots. */
function folderOf(file: SourceFile, specifier: string): string | undefined {
  if (!specifier.startsWith('.')) return undefined;
  const target = posix.join(posix.dirname(file.path), specifier);
  return target.includes('/') ? target.split('/')[0] : '';
}

function allowed(folder: string): readonly string[] {
  return narrower[folder] ?? floors.slice(0, floors.indexOf(folder));
}

function violations(check: (file: SourceFile) => readonly string[]): string[] {
  return product.flatMap((file) => check(file).map((problem) => `src/${file.path}: ${problem}`));
}

describe('folders', () => {
  it('are those of the list', () => {
    const unknown = product.filter(({ path, folder }) =>
      folder === '' ? !roots.includes(path) : !floors.includes(folder),
    );
    expect(unknown.map(({ path }) => path)).toEqual([]);
    expect(product.length).toBeGreaterThan(30);
  });

  it('import only from the floors below them', () => {
    const problems = violations((file) =>
      file.folder === ''
        ? []
        : importsOf(file).flatMap((specifier) => {
            const target = folderOf(file, specifier);
            if (target === undefined || target === file.folder || allowed(file.folder).includes(target)) return [];
            return [`imports ${specifier}; ${file.folder} may import ${allowed(file.folder).join(', ') || 'nothing'}`];
          }),
    );
    expect(problems).toEqual([]);
  });

  it('keep quantization out of graph and passes, and the graph out of everything before it', () => {
    for (const folder of ['formats', 'kernel', 'statistics', 'ranges', 'solvers']) {
      expect(allowed(folder)).not.toContain('graph');
      expect([...allowed('graph'), ...allowed('passes')]).not.toContain(folder);
    }
  });

  it('have no drawers for odds and ends', () => {
    const names = files.flatMap(({ path }) => path.split('/')).map((name) => name.split('.')[0]);
    expect(names.filter((name) => /^(utils?|helpers?|misc|common)$/i.test(name))).toEqual([]);
  });
});

describe('imports', () => {
  it('name the file, with its suffix', () => {
    const problems = violations((file) =>
      importsOf(file).filter(
        (specifier) => specifier.startsWith('.') && !existsSync(join(source, dirname(file.path), specifier)),
      ),
    );
    expect(problems).toEqual([]);
  });

  it('of onnxruntime are in src/runtime alone', () => {
    const problems = violations((file) =>
      file.folder === 'runtime' ? [] : importsOf(file).filter((specifier) => specifier.startsWith('onnxruntime')),
    );
    expect(problems).toEqual([]);
  });

  it('of Node are in files called node.ts, marked "Node only", or under cli', () => {
    const problems = violations((file) => {
      const marked = /Node only/.test(firstComment(file.text));
      if (file.folder === 'cli' || basename(file.path) === 'node.ts' || marked) return [];
      return importsOf(file).filter((specifier) => specifier.startsWith('node:'));
    });
    expect(problems).toEqual([]);
  });
});

/** The comment that a file starts with, or nothing. */
function firstComment(text: string): string {
  const body = text.replace(/^#![^\n]*\n/, '');
  return /^(\/\*[\s\S]*?\*\/|(\/\/[^\n]*\n)+)/.exec(body)?.[0] ?? '';
}

describe('files', () => {
  it('say first what they are for', () => {
    expect(violations(({ text }) => (firstComment(text).length > 20 ? [] : ['starts without a comment']))).toEqual([]);
  });

  it('have at most 600 lines', () => {
    const lengths = files.map(({ path, text }) => [path, text.split('\n').length - 1] as const);
    expect(lengths.filter(([, lines]) => lines > 600)).toEqual([]);
  });

  it.each(bans)('below cli use no $what', ({ what, pattern, folders, entryPointsMay, exceptions = {} }) => {
    const problems = violations((file) => {
      if (entryPointsMay && roots.includes(file.path)) return [];
      const bound = folders ? folders.includes(file.folder) : file.folder !== 'cli';
      if (!bound || file.path in exceptions) return [];
      return file.code.split('\n').flatMap((line) => (pattern.test(line) ? [`${what}: ${line.trim()}`] : []));
    });
    expect(problems).toEqual([]);
  });

  it.each(bans)('with an exception for $what still need it', ({ pattern, exceptions = {} }) => {
    for (const path of Object.keys(exceptions)) {
      expect(files.find((file) => file.path === path)?.code ?? `${path} is gone`).toMatch(pattern);
    }
  });
});

interface Entry {
  readonly id: string;
}

function isEntry(value: unknown): value is Entry {
  return typeof value === 'object' && value !== null && 'id' in value && typeof value.id === 'string';
}

describe.each(families.filter((family) => existsSync(join(source, family, 'index.ts'))))('family %s', (family) => {
  const load = async (name: string) =>
    Object.values((await import(pathToFileURL(join(source, family, name)).href)) as Record<string, unknown>);
  const names = readdirSync(join(source, family)).filter(
    (name) => name.endsWith('.ts') && !name.endsWith('.test.ts') && name !== 'index.ts',
  );

  it('has one list, whose ids are the names of its files', async () => {
    const lists = (await load('index.ts')).filter(
      (value): value is Entry[] => Array.isArray(value) && value.length > 0 && value.every(isEntry),
    );
    expect(lists).toHaveLength(1);
    const listed = lists[0];
    const found = new Map<Entry, string>();
    for (const name of names) {
      const entries = new Set((await load(name)).filter(isEntry));
      expect(entries.size, `entries in ${family}/${name}`).toBeLessThanOrEqual(1);
      for (const entry of entries) {
        expect(entry.id, `id in ${family}/${name}`).toBe(basename(name, '.ts'));
        found.set(entry, name);
      }
    }
    expect(
      [...found].filter(([entry]) => !listed.includes(entry)).map(([, name]) => name),
      'entries missing in the list',
    ).toEqual([]);
    expect(
      listed.filter((entry) => !found.has(entry)).map((entry) => entry.id),
      'listed without a file',
    ).toEqual([]);
    expect(new Set(listed.map((entry) => entry.id)).size).toBe(listed.length);
  });
});

describe('the checks themselves', () => {
  const file = (path: string, text: string): SourceFile => ({
    path,
    folder: path.split('/')[0],
    text,
    code: withoutComments(text),
  });

  it('see imports of every form and where they lead', () => {
    const seen = file(
      'solvers/x.ts',
      `import type { A } from '../graph/a.ts';\nexport * from "./b.ts";\nconst c = await import('node:fs');\n// from 'comment'\n/* import 'comment' */ import 'side';`,
    );
    expect(importsOf(seen).sort()).toEqual(['../graph/a.ts', './b.ts', 'node:fs', 'side']);
    expect(folderOf(seen, '../graph/a.ts')).toBe('graph');
    expect(folderOf(seen, './b.ts')).toBe('solvers');
    expect(allowed('solvers')).toEqual(['base', 'tensor', 'formats', 'kernel', 'statistics', 'ranges']);
    expect(allowed('lowerings')).toContain('graph');
  });

  it('see what is banned, in code and not in comments', () => {
    const hits = (text: string) =>
      bans.filter(({ pattern }) => pattern.test(withoutComments(text))).map(({ what }) => what);
    expect(hits('console.log(1); // Math.random()')).toEqual(['printing']);
    expect(hits('const t = performance.now() - Date.now();')).toEqual(['the clock']);
    expect(hits('new Date()')).toEqual(['the clock']);
    expect(hits('new Date(1980, 0, 1)')).toEqual([]);
    expect(hits('/* process.env */ process.env.X + Math.random() + Math.round(1)')).toEqual([
      'the environment',
      'unseeded randomness',
      'Math.round',
    ]);
  });
});
