// A JavaScript or TypeScript context: one resident Node.js, cells evaluated by V8's REPL mode.
//
// Usage: node node_runner.mjs [typescript]. The control socket is descriptor 3.
// V8's REPL mode (inspector protocol, Runtime.evaluate with replMode) gives top-level await,
// declarations that outlive a cell and may be made again, and the value of the last expression.

import inspector from 'node:inspector';
import util from 'node:util';
import vm from 'node:vm';

import { Channel, SyncStream } from './node_channel.mjs';
import { bundleOf, displayBundle } from './node_display.mjs';
import * as interrupts from './node_interrupts.mjs';
import * as source from './node_source.mjs';

const CONTROL_FD = 3;
const LONGEST_TEXT = 1 << 20;
const MOST_FRAMES = 100;
const OURS = /node:inspector|node:vm|\/node_(runner|source|display|channel|interrupts)\.mjs/;
const FRAME = /^\s+at (?:(.*?) \()?(.*?):(\d+)(?::\d+)?\)?$/;
const STEP = Symbol.for('atoll.step');
const TAKE = Symbol.for('atoll.take');
// With any timeout V8 forgets an interrupt when the code has ended. Without one, an interrupt in the
// moment in which a cell throws makes it abort ("ToLocalChecked Empty MaybeLocal").
const DAY_MS = 86_400_000;
const BROKEN = 'ERR_SCRIPT_EXECUTION_INTERRUPTED';

const typescript = process.argv[2] === 'typescript';
const leave = process.exit.bind(process);
const session = new inspector.Session();
const stepScript = new vm.Script('globalThis[Symbol.for("atoll.step")]()');

let channel;
let running = null;
let count = 0;
const waiting = [];

const shorten = (text) =>
  text.length <= LONGEST_TEXT
    ? text
    : `${text.slice(0, LONGEST_TEXT / 2)}\n... left out ...\n${text.slice(-LONGEST_TEXT / 2)}`;

/** The stack of an error up to our own frames. */
function userStack(stack) {
  const lines = stack.split('\n');
  const end = lines.findIndex((line) => /^\s+at /.test(line) && OURS.test(line));
  return end < 0 ? lines : lines.slice(0, end);
}

function framesOf(lines) {
  const frames = [];
  for (const line of lines) {
    const match = FRAME.exec(line);
    if (match) {
      const [, name, filename, number] = match;
      frames.unshift({ filename, line: Number(number), function: name || '<anonymous>' });
    }
  }
  return frames.slice(-MOST_FRAMES);
}

/** The `error` event for what a cell threw. */
function describe(thrown, place) {
  const isError = util.types.isNativeError(thrown) || thrown instanceof Error;
  if (!isError) {
    const value = util.inspect(thrown);
    return { name: 'Uncaught', value: shorten(value), traceback: `Uncaught ${value}`, frames: [] };
  }
  const name = String(thrown.name ?? 'Error');
  const lines = userStack(String(thrown.stack ?? `${name}: ${thrown.message}`));
  const frames = framesOf(lines);
  if (thrown instanceof SyntaxError && place && !frames.length) {
    frames.push({ ...place, function: '<anonymous>' });
    lines.push(`    at ${place.filename}:${place.line}`);
  }
  const value = shorten(String(thrown.message));
  return { name, value, traceback: shorten(lines.join('\n')), frames };
}

function finish(cell, error) {
  if (running !== cell) return;
  if (error) channel.post({ event: 'error', id: cell.id, ...error });
  interrupts.rest();
  cell.undo();
  running = null;
  channel.send({ event: 'done', id: cell.id, count });
  if (waiting.length) setImmediate(() => run(waiting.shift()));
}

function interrupted(cell) {
  const value = 'the cell was interrupted';
  finish(cell, { name: 'Interrupted', value, traceback: `Interrupted: ${value}`, frames: [] });
}

/** Run code that may loop for ever: SIGINT ends it. Returns false if it did. */
function breakable(cell, body) {
  globalThis[STEP] = () => {
    // From here on a signal breaks the code; this one came while the cell was prepared.
    if (interrupts.pending()) throw Object.assign(new Error(), { code: BROKEN });
    body();
  };
  try {
    stepScript.runInThisContext({ breakOnSigint: true, displayErrors: false });
    return true;
  } catch (error) {
    if (error.code !== BROKEN) throw error;
    interrupted(cell);
    return false;
  }
}

/** The value that a reply of the inspector stands for. */
function valueOf(remote) {
  if (!remote.objectId) {
    if ('unserializableValue' in remote) return vm.runInThisContext(remote.unserializableValue);
    return remote.type === 'undefined' ? undefined : remote.value;
  }
  let value;
  globalThis[TAKE] = (taken) => {
    value = taken;
  };
  session.post('Runtime.callFunctionOn', {
    objectId: remote.objectId,
    functionDeclaration: 'function (value) { globalThis[Symbol.for("atoll.take")](value); }',
    arguments: [{ objectId: remote.objectId }],
  });
  delete globalThis[TAKE];
  return value;
}

/** Set a run's own environment and directory; the result undoes it. */
function override(env = {}, cwd = undefined) {
  const before = Object.keys(env).map((name) => [name, process.env[name]]);
  const directory = cwd === undefined ? undefined : process.cwd();
  if (cwd !== undefined) process.chdir(cwd);
  Object.assign(process.env, env);
  return () => {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    if (directory !== undefined) process.chdir(directory);
  };
}

/** Send the value of the last expression, then end the cell. */
function show(cell, remote) {
  let shown = null;
  const format = () => {
    const value = valueOf(remote);
    if (value !== undefined) shown = bundleOf(value);
  };
  // Only an object can have code of its own that formats it.
  if (!remote.objectId) format();
  else if (!breakable(cell, format)) return;
  if (typeof shown?.then !== 'function') {
    if (shown) channel.post({ event: 'result', id: cell.id, data: shown, main: true });
    finish(cell);
    return;
  }
  shown.then(
    (data) => {
      if (running === cell) channel.send({ event: 'result', id: cell.id, data, main: true });
      finish(cell);
    },
    (error) => finish(cell, describe(error)),
  );
}

/** Act on what the inspector answers for a cell, at once or after its awaits. */
function settle(cell, failure, reply) {
  if (running !== cell) return;
  if (failure) {
    finish(cell, describe(new source.RunnerError('InternalError', failure.message)));
    return;
  }
  const details = reply.exceptionDetails;
  if (details) {
    const place = { filename: cell.filename, line: details.lineNumber + 1 };
    finish(cell, describe(valueOf(details.exception), place));
  } else if (cell.silent) {
    finish(cell);
  } else {
    show(cell, reply.result);
  }
  if (details || reply.result.objectId) {
    session.post('Runtime.releaseObjectGroup', { objectGroup: 'cell' });
  }
}

function run(request) {
  if (running) {
    waiting.push(request);
    return;
  }
  if (!request.silent) count += 1;
  const cell = {
    id: request.id,
    silent: Boolean(request.silent),
    filename: `cell-${count}.${typescript ? 'ts' : 'js'}`,
    undo: () => {},
  };
  running = cell;
  interrupts.forget(request.late);
  try {
    cell.undo = override(request.env, request.cwd);
    const code = source.prepare(request.code, typescript);
    source.loadBuiltins(code);
    const expression = `${code}\n//# sourceURL=${cell.filename}`;
    const options = { expression, replMode: true, objectGroup: 'cell', timeout: DAY_MS };
    let answer = null;
    let returned = false;
    const ended = breakable(cell, () => {
      session.post('Runtime.evaluate', options, (failure, reply) => {
        // Without an await the answer comes at once, where an interrupt could still cut in.
        if (returned) settle(cell, failure, reply);
        else answer = [failure, reply];
      });
    });
    returned = true;
    if (ended && answer) settle(cell, ...answer);
    if (running === cell) interrupts.watch(() => interrupted(cell));
  } catch (error) {
    // Not from the cell's own code, so that its stack would show ours: the message is all.
    const value = shorten(String(error.message));
    finish(cell, { name: error.name, value, traceback: `${error.name}: ${value}`, frames: [] });
  }
}

/** What cells find in their global scope besides what Node.js has. */
function prepareGlobals() {
  for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
    Object.defineProperty(process, name, { value: new SyncStream(fd), configurable: true });
  }
  let directory;
  let requireIn;
  const hidden = { enumerable: false, configurable: true };
  Object.defineProperty(globalThis, 'require', {
    ...hidden,
    get() {
      const here = process.cwd();
      if (directory !== here) {
        // In this order: an interrupt may come between the two.
        requireIn = source.requireHere();
        directory = here;
      }
      return requireIn;
    },
  });
  const define = (name, value) =>
    Object.defineProperty(globalThis, name, { ...hidden, writable: true, value });
  define(source.IMPORT, source.importHere);
  define(source.HOLD, source.hold);
  define(source.HOLD_EACH, source.holdEach);
  define('display', display);
  define('module', { exports: {} });
  define('exports', globalThis.module.exports);
  process.exit = (code = process.exitCode ?? 0) => {
    throw new source.RunnerError('ProcessExit', String(code));
  };
}

/** Show a value, or a bundle {mime: content}, while the cell runs. */
function display(value, options) {
  const cell = running;
  const send = (data) => {
    if (running && running === cell) {
      channel.send({ event: 'result', id: cell.id, data, main: false });
    }
  };
  const data = displayBundle(value, options);
  if (typeof data.then === 'function') return data.then(send);
  return send(data);
}

function report(error) {
  process.stderr.write(`Uncaught ${describe(error).traceback}\n`);
}

function main() {
  session.connect();
  prepareGlobals();
  process.on('uncaughtException', report);
  process.on('unhandledRejection', report);
  // A loop is ended by `breakable`; this is for a cell that waits.
  interrupts.take(() => running && interrupted(running));
  const onRequest = (request) => (request.op === 'shutdown' ? leave(0) : run(request));
  channel = new Channel(CONTROL_FD, onRequest, () => leave(0));
  channel.send({ event: 'ready', pid: process.pid });
}

main();
