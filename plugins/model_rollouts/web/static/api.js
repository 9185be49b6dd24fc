// The page's JSON, with what it knows of how answers go wrong.

export class Failure extends Error {
  constructor(status, body) {
    super(body.detail || `the API server answered ${status}`);
    this.status = status;
    this.code = body.code || String(status);
    this.since = body.since || [];
  }
}

const tags = new Map();

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", redirect: "error", ...options });
  } catch {
    throw new Failure(0, { detail: "Airflow's API server does not answer. The page tries again by itself." });
  }
  if (answer.status === 304) return { answer, body: null };
  let body = {};
  try {
    body = await answer.json();
  } catch {
    if (answer.ok) throw new Failure(answer.status, { detail: "the answer is no JSON; is a proxy in between?" });
  }
  if (!answer.ok) throw new Failure(answer.status, body);
  return { answer, body };
}

// The content, or the one that was had before where nothing has changed.
export async function get(path) {
  const kept = tags.get(path);
  const { answer, body } = await call(path, { headers: kept ? { "If-None-Match": kept.tag } : {} });
  if (body === null) return { content: kept.content, changed: false };
  const tag = answer.headers.get("ETag");
  tags.delete(path);
  if (tag) tags.set(path, { tag, content: body });
  if (tags.size > 50) tags.delete(tags.keys().next().value);
  return { content: body, changed: true };
}

export async function post(path, content) {
  const headers = { "Content-Type": "application/json", "X-Model-Rollouts": "page" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(content) })).body;
}
