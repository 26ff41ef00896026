// From the code of a cell to what V8 evaluates: types stripped, imports made dynamic.

import { createRequire } from 'node:module';
import * as nodeModule from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';

// Names of the functions that an edited cell calls.
export const IMPORT = '__atoll_import';
export const HOLD = '__atoll_hold';
export const HOLD_EACH = '__atoll_hold_each';

let acorn;

/** The parser inside Node.js, which its own REPL uses; null in a build without it. */
function parser() {
  if (acorn === undefined) {
    acorn = null;
    const source = process.binding('natives')['internal/deps/acorn/acorn/dist/acorn'];
    if (source) {
      const module = { exports: {} };
      vm.compileFunction(source, ['exports', 'module'])(module.exports, module);
      acorn = module.exports;
    }
  }
  return acorn;
}

function parse(code) {
  try {
    return parser()?.parse(code, {
      ecmaVersion: 'latest',
      sourceType: 'module',
      allowAwaitOutsideFunction: true,
      allowReturnOutsideFunction: true,
    });
  } catch {
    // V8 will say what is wrong.
    return null;
  }
}

const text = (name) => (name.type === 'Literal' ? JSON.stringify(name.value) : name.name);

/** `import a, {b as c} from 'm'` as statements for a script, in as many lines. */
function importStatement(node, code) {
  const original = code.slice(node.start, node.end);
  const options = node.attributes?.length
    ? `, {with: {${node.attributes.map((a) => `${text(a.key)}: ${a.value.raw}`).join(', ')}}}`
    : '';
  const loaded = `await ${HOLD}(${IMPORT}(${node.source.raw}${options}))`;
  const named = [];
  const parts = [];
  for (const specifier of node.specifiers) {
    const local = specifier.local.name;
    if (specifier.type === 'ImportNamespaceSpecifier') parts.push(`const ${local} = ${loaded};`);
    else if (specifier.type === 'ImportDefaultSpecifier') named.push(`default: ${local}`);
    else named.push(`${text(specifier.imported)}: ${local}`);
  }
  if (named.length) parts.push(`const {${named.join(', ')}} = ${loaded};`);
  if (!parts.length) parts.push(`${loaded};`);
  return parts.join(' ') + '\n'.repeat(original.split('\n').length - 1);
}

/** What takes the place of an `export`: the declaration alone. */
function exportEdit(node) {
  if (node.declaration) return { start: node.start, end: node.declaration.start, text: '' };
  return { start: node.start, end: node.end, text: '' };
}

const FUNCTION = /^(?:FunctionDeclaration|.*FunctionExpression|PropertyDefinition|StaticBlock)$/;

const wrap = (node, name) => [
  { start: node.start, end: node.start, text: `${name}(` },
  { start: node.end, end: node.end, text: ')' },
];

/** What one node asks for. */
function editsOf(node, code, inFunction) {
  if (node.type === 'ImportDeclaration') {
    return [{ start: node.start, end: node.end, text: importStatement(node, code) }];
  }
  if (/^Export(Named|Default)Declaration$/.test(node.type)) return [exportEdit(node)];
  if (node.type === 'ImportExpression') {
    return [{ start: node.start, end: node.start + 'import'.length, text: IMPORT }];
  }
  if (inFunction) return [];
  if (node.type === 'AwaitExpression') return wrap(node.argument, HOLD);
  if (node.type === 'ForOfStatement' && node.await) return wrap(node.right, HOLD_EACH);
  return [];
}

/** Every edit that a tree asks for, last place first and inner ones before outer ones. */
function edits(tree, code) {
  const found = [];
  const visit = (node, inFunction) => {
    found.push(...editsOf(node, code, inFunction));
    if (node.type === 'ImportDeclaration') return;
    const inside = inFunction || FUNCTION.test(node.type);
    for (const child of Object.values(node)) {
      if (Array.isArray(child)) child.forEach((item) => item?.type && visit(item, inside));
      else if (typeof child?.type === 'string') visit(child, inside);
    }
  };
  visit(tree, false);
  return found.reverse().sort((a, b) => b.start - a.start);
}

/** The cell as V8 can run it as a script: imports as calls, top-level awaits held. */
function asScript(code) {
  if (!/\b(?:import|export|await)\b/.test(code)) return code;
  const tree = parse(code);
  if (!tree) return code;
  return edits(tree, code).reduce(
    (result, edit) => result.slice(0, edit.start) + edit.text + result.slice(edit.end),
    code,
  );
}

const held = new Set();

/** Keep a promise that a cell awaits.
 *
 * When the garbage collector takes a promise that Runtime.evaluate waits for, Node.js calls our
 * callback from inside the collector and aborts ("Invoke in DisallowJavascriptExecutionScope").
 */
export function hold(promise) {
  if (typeof promise?.then !== 'function') return promise;
  const kept = Promise.resolve(promise);
  held.add(kept);
  const release = () => held.delete(kept);
  kept.then(release, release);
  return kept;
}

/** `hold` for what a cell's `for await` goes through. */
export async function* holdEach(values) {
  const method = values[Symbol.asyncIterator] ?? values[Symbol.iterator];
  const iterator = method.call(values);
  try {
    for (;;) {
      const { done, value } = await hold(iterator.next());
      if (done) return;
      yield await hold(value);
    }
  } finally {
    await iterator.return?.();
  }
}

/** `{a: 1}` alone is meant as a value, not as a block: Node's REPL has the same rule. */
function withObjectAsValue(code) {
  if (!/^\s*\{/.test(code) || /;\s*$/.test(code)) return code;
  const wrapped = `(${code}\n)`;
  try {
    new vm.Script(wrapped);
    return wrapped;
  } catch {
    return code;
  }
}

/** Where a cell's modules are looked for: from the current directory. */
export function requireHere() {
  return createRequire(path.join(process.cwd(), 'cell.js'));
}

/** Run `body` without the warnings about experimental parts of Node.js that we use ourselves. */
function quietly(body) {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return body();
  } finally {
    process.emitWarning = emitWarning;
  }
}

const NAMED = /(?:require|import|from)\s*\(?\s*(['"`])(?:node:)?([a-z][a-z_/0-9]*)\1/g;
const unloaded = new Set(nodeModule.builtinModules);

/** Load the parts of Node.js that a cell names, before it runs.
 *
 * An interrupt in the middle of such a load would leave the part half made for good.
 */
export function loadBuiltins(code) {
  for (const [, , name] of code.matchAll(NAMED)) {
    if (!unloaded.delete(name)) continue;
    try {
      quietly(() => createRequire('/')(`node:${name}`));
    } catch {
      // The cell will hear of it, if it comes to that line.
    }
  }
}

/** import() of a cell: relative to the current directory. */
export function importHere(specifier, options) {
  const loader = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  if (!loader) {
    // Before Node.js 20.10 only require() can resolve from a directory of our choice.
    const found = requireHere().resolve(String(specifier));
    return import(path.isAbsolute(found) ? pathToFileURL(found).href : found, options);
  }
  return quietly(() => {
    const script = new vm.Script('(specifier, options) => import(specifier, options)', {
      filename: path.join(process.cwd(), 'cell.js'),
      importModuleDynamically: loader,
    });
    return script.runInThisContext()(specifier, options);
  });
}

/** An error that the runner itself raises. */
export class RunnerError extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
    this.stack = `${name}: ${message}`;
  }
}

function stripByNode(code) {
  try {
    return quietly(() => nodeModule.stripTypeScriptTypes(code, { mode: 'strip' }));
  } catch (error) {
    // Enums and namespaces are not erased but translated; lines may move.
    if (error.code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX') throw error;
    return quietly(() => nodeModule.stripTypeScriptTypes(code, { mode: 'transform' }));
  }
}

const isUnsupported = (error) => /not supported in strip-only mode/.test(String(error));

function stripByAmaro(amaro, code) {
  try {
    return amaro.transformSync(code, { mode: 'strip-only' }).code;
  } catch (error) {
    if (!isUnsupported(error)) throw new SyntaxError(String(error));
    return amaro.transformSync(code, { mode: 'transform' }).code;
  }
}

// Each keeps imports that this cell does not use: a later cell may.
const STRIPPERS = {
  amaro: stripByAmaro,
  sucrase: (sucrase, code) =>
    sucrase.transform(code, {
      transforms: ['typescript'],
      keepUnusedImports: true,
      disableESTransforms: true,
    }).code,
  // Up to version 6: the later compiler has no such function.
  typescript: (ts, code) =>
    ts.transpileModule(code, {
      compilerOptions: {
        target: ts.ScriptTarget.ESNext,
        module: ts.ModuleKind.ESNext,
        verbatimModuleSyntax: true,
      },
    }).outputText,
};

const NEEDED = { amaro: 'transformSync', sucrase: 'transform', typescript: 'transpileModule' };

const GLOBAL_FOLDERS = ['/usr/local/lib/node_modules', '/usr/lib/node_modules'];

function load(name) {
  for (const folder of [path.join(process.cwd(), 'cell.js'), ...GLOBAL_FOLDERS]) {
    try {
      return createRequire(folder.endsWith('.js') ? folder : `${folder}/cell.js`)(
        folder.endsWith('.js') ? name : `${folder}/${name}`,
      );
    } catch (error) {
      if (error.code !== 'MODULE_NOT_FOUND') throw error;
    }
  }
  return null;
}

let stripper;

/** JavaScript from TypeScript. Nothing is type-checked. */
export function stripTypes(code) {
  if (!stripper && nodeModule.stripTypeScriptTypes) stripper = stripByNode;
  for (const [name, strip] of Object.entries(STRIPPERS)) {
    if (stripper) break;
    const library = load(name);
    if (library?.[NEEDED[name]]) stripper = (source) => strip(library, source);
  }
  if (!stripper) {
    throw new RunnerError(
      'TypeScriptUnavailable',
      `Node.js ${process.version} cannot run TypeScript by itself: use Node.js 22.13 or later, ` +
        `or install the npm package amaro, sucrase or typescript@6`,
    );
  }
  return stripper(code);
}

/** What V8 is to evaluate for a cell. */
export function prepare(code, typescript) {
  const javascript = typescript ? stripTypes(code) : code;
  return asScript(withObjectAsValue(javascript));
}
