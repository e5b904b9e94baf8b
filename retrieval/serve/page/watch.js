// The page of one video: it plays from a moment, and marks all moments on its seek bar.
import { clock, count, element, folder, range, score } from "./format.js";
import { described, hasQuery } from "./state.js";

const SKIP_SECONDS = 5;

export function watchPage(video, moments, state, { onLike, onMove }) {
  const player = element("video", { controls: true, playsinline: true, preload: "metadata" });
  const bar = element("div", { class: "marks", role: "group", "aria-label": "Moments of this video" });
  const head = element("div", { class: "head" });
  const unplayable = element("div", { class: "unplayable", role: "alert", hidden: true });
  const list = element("ol", { class: "moments" });
  const inTime = [...moments].sort((one, other) => one.start_seconds - other.start_seconds);
  const best = Math.max(...moments.map((one) => one.score ?? 0));
  let chosen = current(inTime, state.seconds);

  const seek = (moment) => {
    chosen = moment;
    player.currentTime = moment.start_seconds;
    player.play().catch(() => {});
    onMove(moment.start_seconds);
    show();
  };
  const show = () => {
    for (const button of [...bar.querySelectorAll("button"), ...list.querySelectorAll("button.moment")]) {
      const here = button.moment === chosen;
      button.classList.toggle("chosen", here);
      if (here) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  };
  const draw = () => {
    const duration = Number.isFinite(player.duration) ? player.duration : video.end_seconds;
    bar.replaceChildren(head);
    for (const moment of inTime) {
      const name = moment.score === undefined ? range(moment) : `${range(moment)}, score ${score(moment)}`;
      const mark = element("button", { type: "button", "aria-label": name, title: name, onclick: () => seek(moment) });
      mark.moment = moment;
      mark.style.left = `${(100 * moment.start_seconds) / duration}%`;
      mark.style.width = `${(100 * Math.max(0, moment.end_seconds - moment.start_seconds)) / duration}%`;
      if (moment.score !== undefined && moment.score < best) mark.classList.add("lesser");
      bar.append(mark);
    }
    show();
  };
  for (const moment of moments) list.append(listed(moment, { seek, onLike }));
  player.addEventListener("loadedmetadata", () => {
    draw();
    player.currentTime = Math.min(state.seconds, Math.max(0, player.duration - 0.05));
    player.play().catch(() => {});
  });
  player.addEventListener("timeupdate", () => {
    head.style.left = `${(100 * player.currentTime) / (player.duration || video.end_seconds || 1)}%`;
  });
  player.addEventListener("error", () => showUnplayable(unplayable, player, video, state.seconds));
  player.src = video.media;
  draw();

  const page = element(
    "div",
    { class: "watch" },
    element(
      "div",
      { class: "stage" },
      player,
      unplayable,
      bar,
      element("h1", {}, video.title),
      element("p", { class: "about" }, facts(video)),
      metadata(video.metadata),
    ),
    element(
      "aside",
      { "aria-label": "Moments" },
      element("h2", {}, hasQuery(state) ? `Moments for ${described(state)}` : "Moments"),
      moments.length ? list : element("p", {}, "No moment of this video answers."),
    ),
  );
  return { page, keys: (key) => pressed(key, { player, inTime, chosen: () => chosen, seek }) };
}

function listed(moment, { seek, onLike }) {
  const button = element(
    "button",
    { class: "moment", type: "button", onclick: () => seek(moment) },
    element("img", { src: moment.frame, alt: "", loading: "lazy" }),
    element("span", {}, range(moment)),
    moment.score === undefined ? null : element("span", { class: "score" }, score(moment)),
  );
  button.moment = moment;
  const like = element(
    "button",
    {
      class: "link", type: "button", onclick: () => onLike(moment),
      "aria-label": `More like this: ${clock(moment.start_seconds)}`,
    },
    "More like this",
  );
  return element("li", {}, button, like);
}

function facts(video) {
  const place = folder(video.video);
  return [
    ...(place ? [place] : []),
    clock(video.end_seconds),
    `${(video.size_bytes / 1e6).toFixed(1)} MB`,
    count(video.segments.length, "segment"),
  ].join(" · ");
}

function metadata(values) {
  const rows = Object.entries(values).flatMap(([key, value]) => [
    element("dt", {}, key), element("dd", {}, String(value)),
  ]);
  return rows.length ? element("dl", { class: "metadata" }, ...rows) : null;
}

function current(moments, seconds) {
  return moments.find((one) => Math.abs(one.start_seconds - seconds) < 0.1) ?? null;
}

function showUnplayable(place, player, video, seconds) {
  player.hidden = true;
  place.hidden = false;
  const frame = `/frame?${new URLSearchParams({ video: video.video, seconds, height: 720 })}`;
  place.replaceChildren(
    element("img", { src: frame, alt: `The frame at ${clock(seconds)}`, onerror: (event) => event.target.remove() }),
    element("p", {}, "This browser cannot play the file: it is gone, or of a format that it does not know. "),
    element("a", { href: video.media, download: "" }, "Download it"),
  );
}

function pressed(key, { player, inTime, chosen, seek }) {
  const step = (by) => {
    const here = chosen() ? inTime.indexOf(chosen()) : by > 0 ? -1 : inTime.length;
    const next = inTime[here + by];
    if (next) seek(next);
  };
  const actions = {
    n: () => step(1),
    p: () => step(-1),
    k: () => (player.paused ? player.play().catch(() => {}) : player.pause()),
    j: () => (player.currentTime -= SKIP_SECONDS),
    l: () => (player.currentTime += SKIP_SECONDS),
    m: () => (player.muted = !player.muted),
    f: () => (document.fullscreenElement ? document.exitFullscreen() : player.requestFullscreen?.()),
  };
  if (!Object.hasOwn(actions, key)) return false;
  actions[key]();
  return true;
}
