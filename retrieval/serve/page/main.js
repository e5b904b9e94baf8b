// Shows what the address says, and changes the address when people ask for something else.
import * as api from "./api.js";
import { grid, momentCard, skeletons, videoCard, videoGroup } from "./cards.js";
import { count, element } from "./format.js";
import { bindForm, showForm } from "./query.js";
import * as states from "./state.js";
import { watchPage } from "./watch.js";

const $ = (id) => document.getElementById(id);
const main = $("main");
const answers = new Map();
const MOST_REMEMBERED = 20;
let about = null;
let pending = new AbortController();
let watchKeys = () => false;

const say = (text) => ($("status").textContent = text);

function change(differences, { replace = false } = {}) {
  go({ ...states.read(), video: null, seconds: 0, ...differences }, { replace });
}

function go(state, { replace = false } = {}) {
  const goal = states.address(state);
  if (replace || goal === window.location.pathname + window.location.search) {
    window.history.replaceState(null, "", goal);
  } else {
    window.history.pushState(null, "", goal);
    window.scrollTo(0, 0);
  }
  show();
}

const like = (moment) =>
  change({
    text: "",
    likes: [{ video: moment.video, start: moment.start_seconds, end: moment.end_seconds }],
    uploads: [],
  });

async function show() {
  pending.abort();
  pending = new AbortController();
  const { signal } = pending;
  const state = states.read();
  main.querySelector("video")?.pause();
  watchKeys = () => false;
  showForm(state, about, change);
  try {
    if (about === null) {
      about = await api.collection();
      showForm(state, about, change);
    }
    if (state.video !== null) await showVideo(state, signal);
    else if (states.hasQuery(state)) await showResults(state, signal);
    else await showAll(state, signal);
  } catch (problem) {
    if (problem.name !== "AbortError") showProblem(problem);
  }
}

async function remembered(request, signal) {
  const key = JSON.stringify(request);
  if (!answers.has(key)) {
    say("Searching …");
    main.replaceChildren(skeletons());
    const answer = await api.search(request, signal);
    answers.set(key, answer);
    if (answers.size > MOST_REMEMBERED) answers.delete(answers.keys().next().value);
  }
  return answers.get(key);
}

async function showResults(state, signal) {
  document.title = `${state.text || "Examples"} – reelscan`;
  const grouping = state.group ? { group: "video", top: 12 } : { top: 48 };
  const answer = await remembered(states.request(state, grouping), signal);
  const found = state.group ? answer.videos : answer.moments;
  if (!found.length) {
    say("Nothing found");
    main.replaceChildren(notice("Nothing found", "Try other words, or a wider filter."));
    return;
  }
  say(`${count(found.length, state.group ? "video" : "moment")} in ${Math.round(answer.milliseconds)} ms`);
  main.replaceChildren(
    element("h1", { class: "hidden" }, `Results for ${states.described(state)}`),
    ...(state.group
      ? found.map((one) => videoGroup(one, state, { onLike: like }))
      : [grid(found.map((one) => momentCard(one, state, { onLike: like })))]),
  );
}

async function showAll(state, signal) {
  document.title = "reelscan";
  main.replaceChildren(skeletons());
  say("Loading …");
  const first = await api.videos(0, signal);
  if (!first.total) {
    say("");
    main.replaceChildren(
      notice("This collection is empty", "`reelscan index FOLDER --to COLLECTION` embeds a folder of videos; it may run while this page is open."),
    );
    return;
  }
  say(`${count(about.videos, "video")}, ${count(about.segments, "segment")} in ${about.name}`);
  const list = grid(first.videos.map((one) => videoCard(one, state)));
  main.replaceChildren(element("h1", { class: "hidden" }, "All videos"), list);
  let shown = first.videos.length;
  if (shown >= first.total) return;
  const more = element("button", { class: "button more", type: "button" }, "More videos");
  more.addEventListener("click", async () => {
    const next = await api.videos(shown).catch(showProblem);
    if (!next) return;
    shown += next.videos.length;
    list.append(...next.videos.map((one) => videoCard(one, state)));
    if (shown >= next.total) more.remove();
  });
  main.append(more);
}

async function showVideo(state, signal) {
  say("Loading …");
  main.replaceChildren(element("div", { class: "thumb skeleton stage" }));
  const video = await api.video(state.video, signal);
  document.title = `${video.title} – reelscan`;
  const moments = states.hasQuery(state)
    ? (await api.search(states.request(state, { video: state.video, top: 50 }), signal)).moments
    : video.segments.map((one) => ({ ...one, video: video.video, title: video.title, frame: frame(video.video, one) }));
  const { page, keys } = watchPage(video, moments, state, {
    onLike: like,
    onMove: (seconds) => window.history.replaceState(null, "", states.address({ ...state, seconds })),
  });
  watchKeys = keys;
  say("");
  main.replaceChildren(
    element("a", { class: "back", href: states.address({ ...state, video: null, seconds: 0 }) },
      states.hasQuery(state) ? "← Results" : "← All videos"),
    page,
  );
}

function frame(video, segment) {
  const seconds = ((segment.start_seconds + segment.end_seconds) / 2).toFixed(2);
  return `/frame?${new URLSearchParams({ video, seconds, height: 180 })}`;
}

function notice(title, text, ...more) {
  return element("div", { class: "notice" }, element("h1", {}, title), element("p", {}, text), ...more);
}

function showProblem(problem) {
  say("");
  if (problem.status === 401) {
    if (!$("sign-in").open) $("sign-in").showModal();
    return;
  }
  const again = element("button", { class: "button", type: "button", onclick: show }, "Try again");
  const box = notice("That did not work", problem.message, again);
  box.setAttribute("role", "alert");
  main.replaceChildren(box);
}

// Results in the order they are read; up and down go to the nearest one of the next row.
function neighbour(key) {
  const links = [...main.querySelectorAll(".card-link")];
  const here = links.indexOf(document.activeElement);
  if (here < 0) return key === "ArrowDown" ? links[0] : null;
  if (key === "ArrowLeft") return links[here - 1];
  if (key === "ArrowRight") return links[here + 1];
  const box = links[here].getBoundingClientRect();
  const side = key === "ArrowDown" ? 1 : -1;
  const others = links
    .map((link) => ({ link, at: link.getBoundingClientRect() }))
    .filter(({ at }) => side * (at.top - box.top) > 4);
  const distance = ({ at }) => 10 * Math.abs(at.top - box.top) + Math.abs(at.left - box.left);
  return others.sort((one, other) => distance(one) - distance(other))[0]?.link;
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape" && typing) event.target.blur();
  else if (event.key === "ArrowDown" && event.target === $("text")) neighbour("ArrowDown")?.focus();
  else if (typing) return;
  else if (event.key === "/") $("text").focus();
  else if (event.key === "?") $("shortcuts").showModal();
  else if (event.key === "Escape" && states.read().video !== null) main.querySelector(".back")?.click();
  else if (event.key.startsWith("Arrow") && states.read().video === null) {
    const next = neighbour(event.key);
    if (!next) return;
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  } else if (!watchKeys(event.key)) return;
  event.preventDefault();
}

function bind() {
  bindForm({
    read: () => states.read(),
    onChange: change,
    onProblem: showProblem,
    onBusy: say,
  });
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='/']");
    const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    if (!link || !plain || link.hasAttribute("download")) return;
    event.preventDefault();
    go(states.read(new URL(link.href)));
  });
  window.addEventListener("popstate", show);
  $("help").addEventListener("click", () => $("shortcuts").showModal());
  $("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    setTheme(dark ? "light" : "dark");
  });
  $("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await api.signIn($("token").value);
      $("sign-in").close();
      show();
    } catch (problem) {
      $("token-error").textContent = problem.message;
    }
  });
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  window.localStorage.setItem("theme", theme);
}

const wish = window.localStorage.getItem("theme");
const dark = wish ? wish === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.dataset.theme = dark ? "dark" : "light";
bind();
show();
