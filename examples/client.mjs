// A client of the Tasks API for Node 18 and later, without packages: create, wait, list, idle.
//
// Run it beside a running service: `node examples/client.mjs`. TASKS_API_URL names another address.

const BASE_URL = process.env.TASKS_API_URL ?? 'http://localhost:8060';

// Returns the API's answer; throws its `detail`, which says what to do, for an error.
async function call(method, path, body) {
  const answer = await fetch(BASE_URL + path, {
    method,
    headers: { 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  const value = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status}: ${value.detail}`);
  return value;
}

// Creates a message task; returns its id. Keep it: it is how you ask for the outcome.
async function create(content) {
  return (await call('POST', '/tasks/', { content })).task_id;
}

// Waits for a task's end, however long; returns its value, or throws its error.
async function outcome(taskId) {
  for (;;) {
    const task = await call('GET', `/tasks/${taskId}?wait=60`);
    if (task.status === 'SUCCESS') return task.result;
    if (['FAILURE', 'REVOKED'].includes(task.status)) throw new Error(task.result.error);
  }
}

// Returns how many tasks have not ended.
async function unfinished() {
  return (await call('GET', '/tasks/?limit=1')).total;
}

// Waits until no task is left; false if some are after so many seconds.
async function idle(seconds) {
  const deadline = Date.now() + seconds * 1000;
  while (await unfinished()) {
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  return true;
}

const mine = await create('Hello from Node.js!');
console.log(`Created task: ${mine}`);
console.log(`Unfinished tasks: ${await unfinished()}`);
console.log('Result:', await outcome(mine));
console.log(`Idle: ${await idle(60)}`);
