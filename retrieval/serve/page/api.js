// Requests to the service; an error's message is made for people.

export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached. Is `reelscan serve` still running?", 0);
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    throw new Problem(body?.error?.message ?? `The service answered ${answer.status}.`, answer.status);
  }
  return body;
}

function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

export const search = (request, signal) => post("/search", request, signal);
export const signIn = (token) => post("/session", { token });
export const collection = () => ask("/collection");
export const video = (name, signal) => ask(`/videos/${encodeURIComponent(name)}`, { signal });
export const videos = (offset, signal) => ask(`/videos?limit=48&offset=${offset}`, { signal });
export const upload = (file) => ask("/uploads", { method: "POST", body: file });
