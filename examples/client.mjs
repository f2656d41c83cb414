// A client of the Tasks API for Node 18 and later, without packages: create, wait, list, idle.
//
// Run it while the service runs: `node examples/client.mjs`. TASKS_API_URL names another address.

const BASE_URL = process.env.TASKS_API_URL ?? 'http://localhost:8060';

// Returns the API's answer. Throws an error of one line if there is none within `seconds`, or if it is an error.
async function call(method, path, body, seconds = 10) {
  const url = BASE_URL + path;
  let answer, text;
  try {
    answer = await fetch(url, {
      method,
      headers: { 'Content-Type': 'application/json' },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(seconds * 1000),
    });
    text = await answer.text();
  } catch (error) {
    const reason = error.cause?.code ?? error.cause?.message ?? error.message;
    throw new Error(`${url} does not answer (${reason}): start the service (make run) or set TASKS_API_URL`);
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = null;
  }
  if (!answer.ok && value?.detail) throw new Error(`${url} answers ${answer.status}: ${value.detail}`);
  if (!answer.ok || !(value?.task_id || value?.tasks)) {
    throw new Error(`${url} (${answer.status}) is not the address of a Tasks API: set TASKS_API_URL`);
  }
  return value;
}

// Creates a message task; returns its id. Keep the id: you need it to read the outcome.
async function create(content) {
  return (await call('POST', '/tasks/', { content })).task_id;
}

// Waits for a task's end without a time limit; returns its value, or throws its error.
async function outcome(taskId) {
  for (;;) {
    const task = await call('GET', `/tasks/${taskId}?wait=60`, undefined, 70);
    if (task.status === 'SUCCESS') return task.result;
    if (['FAILURE', 'REVOKED'].includes(task.status)) throw new Error(task.result.error);
  }
}

// Returns how many tasks have not ended.
async function unfinished() {
  return (await call('GET', '/tasks/?limit=1')).total;
}

// Waits until all tasks have ended; returns false if some have not after `seconds`.
async function idle(seconds) {
  const deadline = Date.now() + seconds * 1000;
  while (await unfinished()) {
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  return true;
}

try {
  const mine = await create('Hello from Node.js!');
  console.log(`Created task: ${mine}`);
  console.log(`Unfinished tasks: ${await unfinished()}`);
  console.log('Result:', await outcome(mine));
  console.log(`Idle: ${await idle(60)}`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
