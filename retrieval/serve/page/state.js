// What is looked for and shown lives in the address, so that links, back and forward work.

export function read(address = window.location) {
  const given = new URLSearchParams(address.search);
  return {
    text: given.get("q") ?? "",
    likes: given.getAll("like").map(readLike).filter(Boolean),
    uploads: given.getAll("upload").map(readUpload),
    group: given.get("group") === "video",
    rerank: given.get("rerank") === "1",
    where: given.get("where") ?? "",
    video: address.pathname === "/watch" ? (given.get("v") ?? "") : null,
    seconds: Number(given.get("t")) || 0,
  };
}

export function address(state) {
  const given = new URLSearchParams();
  if (state.video !== null) given.set("v", state.video);
  if (state.video !== null && state.seconds) given.set("t", state.seconds.toFixed(1));
  if (state.text) given.set("q", state.text);
  for (const like of state.likes) given.append("like", `${like.start}-${like.end}@${like.video}`);
  for (const one of state.uploads) given.append("upload", `${one.id}@${one.name}`);
  if (state.group) given.set("group", "video");
  if (state.rerank) given.set("rerank", "1");
  if (state.where) given.set("where", state.where);
  const words = given.toString();
  return (state.video === null ? "/" : "/watch") + (words ? `?${words}` : "");
}

export function hasQuery(state) {
  return Boolean(state.text.trim() || state.likes.length || state.uploads.length);
}

// The body of a search; `more` adds to it.
export function request(state, more = {}) {
  const parts = [
    ...state.likes.map((like) => ({
      video: like.video, start_seconds: like.start, end_seconds: like.end,
    })),
    ...state.uploads.map((one) => ({ upload: one.id })),
  ];
  return {
    ...(state.text.trim() ? { text: state.text } : {}),
    ...(parts.length ? { parts } : {}),
    ...(state.where.trim() ? { where: state.where } : {}),
    ...(state.rerank ? { rerank: true } : {}),
    ...more,
  };
}

// In words, for titles and messages.
export function described(state) {
  return [
    ...(state.text.trim() ? [`“${state.text.trim()}”`] : []),
    ...(state.likes.length + state.uploads.length ? ["the examples"] : []),
  ].join(" and ");
}

function readLike(words) {
  const found = /^([\d.]+)-([\d.]+)@(.+)$/s.exec(words);
  return found && { start: Number(found[1]), end: Number(found[2]), video: found[3] };
}

function readUpload(words) {
  const [id, ...rest] = words.split("@");
  return { id, name: rest.join("@") || "example" };
}
