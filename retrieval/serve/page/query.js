// The form: a sentence, examples, filters. It tells `onChange` what should be looked for.
import * as api from "./api.js";
import { clock, element } from "./format.js";

const $ = (id) => document.getElementById(id);
const pictures = new Map();

export function bindForm({ read, onChange, onProblem, onBusy }) {
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    onChange({ text: $("text").value, where: $("where").value });
  });
  $("group").addEventListener("change", () => onChange({ group: $("group").checked }));
  $("rerank").addEventListener("change", () => onChange({ rerank: $("rerank").checked }));
  $("where").addEventListener("change", () => onChange({ text: $("text").value, where: $("where").value }));
  const take = async (file) => {
    if (!file) return;
    onBusy(`Reading ${file.name || "the example"} …`);
    try {
      const { upload } = await api.upload(file);
      if (file.type.startsWith("image/")) pictures.set(upload, URL.createObjectURL(file));
      const more = { id: upload, name: file.name || "pasted picture" };
      onChange({ text: $("text").value, uploads: [...read().uploads, more] });
    } catch (problem) {
      onProblem(problem);
    }
  };
  $("file").addEventListener("change", () => {
    take($("file").files[0]);
    $("file").value = "";
  });
  bindDropping(take);
}

function bindDropping(take) {
  let depth = 0;
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = (by) => {
    depth = Math.max(0, depth + by);
    $("drop").hidden = depth === 0;
  };
  window.addEventListener("dragenter", (event) => holdsFile(event) && show(1));
  window.addEventListener("dragleave", (event) => holdsFile(event) && show(-1));
  window.addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  window.addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    show(-depth);
    take(event.dataTransfer.files[0]);
  });
  window.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])][0];
    if (file) {
      event.preventDefault();
      take(file);
    }
  });
}

export function showForm(state, about, onChange) {
  if (document.activeElement !== $("text") || !$("text").value) $("text").value = state.text;
  $("where").value = state.where;
  $("group").checked = state.group;
  $("rerank").checked = state.rerank;
  $("rerank-label").hidden = !about?.can_rerank || state.likes.length + state.uploads.length > 0;
  if (state.where) $("filters").open = true;
  $("examples").replaceChildren(
    ...state.likes.map((like) =>
      chip(`${like.video.split("/").pop()} at ${clock(like.start)}`, frameOf(like), () =>
        onChange({ likes: state.likes.filter((one) => one !== like) }),
      ),
    ),
    ...state.uploads.map((one) =>
      chip(one.name, pictures.get(one.id), () =>
        onChange({ uploads: state.uploads.filter((other) => other !== one) }),
      ),
    ),
  );
  $("values").replaceChildren(...(about?.fields ?? []).map((field) => values(field, state, onChange)));
}

function frameOf(like) {
  const seconds = (like.start + like.end) / 2;
  return `/frame?${new URLSearchParams({ video: like.video, seconds, height: 90 })}`;
}

function chip(name, picture, onRemove) {
  return element(
    "li",
    { class: "chip" },
    picture ? element("img", { src: picture, alt: "" }) : null,
    element("span", {}, `like ${name}`),
    element("button", { type: "button", "aria-label": `Remove the example ${name}`, onclick: onRemove }, "×"),
  );
}

function values(field, state, onChange) {
  const buttons = field.values.map((value) => {
    const words = condition(field.name, value);
    const all = state.where.split(" and ").filter(Boolean);
    const on = all.includes(words);
    const next = on ? all.filter((one) => one !== words) : [...all, words];
    const toggle = () => onChange({ where: next.join(" and ") });
    return element(
      "button",
      { class: "value", type: "button", "aria-pressed": String(on), onclick: toggle },
      String(value),
    );
  });
  return element(
    "div",
    { class: "field", role: "group", "aria-label": field.name },
    element("span", {}, field.name),
    ...buttons,
  );
}

function condition(name, value) {
  const shown = `\`${name}\``;
  return typeof value === "string" ? `${shown} = '${value.replaceAll("'", "''")}'` : `${shown} = ${value}`;
}
