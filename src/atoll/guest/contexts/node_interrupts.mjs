// SIGINT of a JavaScript context: it ends the running cell, and never the process.
//
// Node.js has two owners for SIGINT: its event loop, for listeners of the process, and a watchdog,
// for code that SIGINT may break. They hand it to each other by way of the default action, so that
// a signal at the very start or end of a cell would end the process. Here the watchdog has it from
// the first moment to the last, and notes what comes while no code can be broken.

const POLL_MS = 25;
const CHILD_MS = 250;
const LATE_MS = 5;
const SIGINT_STATUS = 130;
const PAUSE = new Int32Array(new SharedArrayBuffer(4));

let watchdog = null;
let timer = null;

/** The watchdog of Node.js; null in a release that does not give it out any more. */
function findWatchdog() {
  try {
    const found = process.binding('contextify');
    return found.startSigintWatchdog && found.watchdogHasPendingSigint ? found : null;
  } catch {
    return null;
  }
}

/** Keep the event loop from taking SIGINT over: listeners that a cell adds are never called. */
function closeToListeners() {
  for (const event of ['newListener', 'removeListener']) {
    for (const hook of process.listeners(event)) {
      if (!/^st(art|op)ListeningIfSignal$/.test(hook.name)) continue;
      process.removeListener(event, hook);
      process.on(event, (name, ...rest) => {
        if (name !== 'SIGINT') hook.call(process, name, ...rest);
      });
    }
  }
}

/** Let the signal that ended a child of execSync() reach us too, before the cell goes on.
 *
 * The cell would most often end by the child's failure at the moment at which the signal breaks it.
 */
function awaitSignalOfChildren() {
  const children = process.binding('spawn_sync');
  const { spawn } = children;
  children.spawn = (options) => {
    const result = spawn.call(children, options);
    if (result.signal === 'SIGINT' || result.status === SIGINT_STATUS) {
      const end = Date.now() + CHILD_MS;
      while (!pending() && Date.now() < end) Atomics.wait(PAUSE, 0, 0, POLL_MS);
    }
    return result;
  };
}

/** Take SIGINT over. Without a watchdog to hold, `onSignal` is called between turns of the loop. */
export function take(onSignal) {
  watchdog = findWatchdog();
  if (watchdog) {
    closeToListeners();
    awaitSignalOfChildren();
    watchdog.startSigintWatchdog();
  } else {
    process.on('SIGINT', onSignal);
  }
}

/** Forget a signal that came before this cell; with `late`, also one that is still on its way.
 *
 * The watchdog is a thread: what it was woken for may take it some time.
 */
export function forget(late) {
  if (!watchdog) return;
  if (late) Atomics.wait(PAUSE, 0, 0, LATE_MS);
  watchdog.startSigintWatchdog();
  watchdog.stopSigintWatchdog();
}

/** True if a signal has come while no code could be broken. */
export const pending = () => Boolean(watchdog?.watchdogHasPendingSigint());

/** Call `onSignal` if one comes while a cell waits, until `rest` is called. */
export function watch(onSignal) {
  if (!watchdog || timer) return;
  timer = setInterval(() => pending() && onSignal(), POLL_MS);
}

/** The cell waits no longer. */
export function rest() {
  clearInterval(timer);
  timer = null;
}
