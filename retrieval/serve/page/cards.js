// Results: pictures of the best frames, which play when they are pointed at.
import { clock, count, element, folder, range, score } from "./format.js";
import { address } from "./state.js";

const PREVIEW_AFTER_MILLISECONDS = 250;

export function momentCard(moment, state, { onLike, showTitle = true }) {
  const goal = { ...state, video: moment.video, seconds: moment.start_seconds };
  const picture = thumbnail(moment, showTitle ? range(moment) : null);
  const link = element(
    "a",
    { href: address(goal), class: "card-link" },
    picture,
    element("span", { class: "title" }, showTitle ? moment.title : range(moment)),
  );
  previewWhilePointedAt(link, picture, moment);
  const likeTitle = `More like this: ${moment.title} at ${clock(moment.start_seconds)}`;
  return element(
    "li",
    { class: "card" },
    link,
    element(
      "p",
      { class: "about" },
      element("span", { class: "score", title: scoreTitle(moment) }, score(moment)),
      showTitle && folder(moment.video) ? element("span", { class: "folder" }, folder(moment.video)) : null,
      moment.duplicates.length ? element("span", {}, `+${count(moment.duplicates.length, "copy").replace("copys", "copies")}`) : null,
      element(
        "button",
        { class: "link", type: "button", "aria-label": likeTitle, onclick: () => onLike(moment) },
        "More like this",
      ),
    ),
  );
}

export function videoCard(video, state) {
  const goal = { ...state, video: video.video, seconds: 0 };
  const moment = { ...video, start_seconds: 0, end_seconds: 6 };
  const picture = thumbnail(moment, null);
  const link = element(
    "a",
    { href: address(goal), class: "card-link" },
    picture,
    element("span", { class: "title" }, video.title),
  );
  previewWhilePointedAt(link, picture, moment);
  const where = folder(video.video);
  return element("li", { class: "card" }, link, where ? element("p", { class: "about" }, where) : null);
}

export function videoGroup(group, state, { onLike }) {
  const goal = { ...state, video: group.video, seconds: group.moments[0].start_seconds };
  return element(
    "section",
    { class: "group", "aria-label": group.title },
    element(
      "h2",
      {},
      element("a", { href: address(goal) }, group.title),
      element("span", { class: "about" }, count(group.moments.length, "moment")),
    ),
    grid(group.moments.map((one) => momentCard(one, state, { onLike, showTitle: false })), "row"),
  );
}

export function grid(cards, kind = "grid") {
  return element("ul", { class: kind, role: "list" }, ...cards);
}

export function skeletons(number = 12) {
  const one = () =>
    element("li", { class: "card skeleton" }, element("div", { class: "thumb" }), element("div", { class: "line" }));
  return element("ul", { class: "grid", "aria-hidden": "true" }, ...Array.from({ length: number }, one));
}

function scoreTitle(moment) {
  return moment.probability === null ? "Similarity" : `Probability; score ${moment.score.toFixed(3)}`;
}

function thumbnail(moment, label) {
  const image = element("img", { src: moment.frame, alt: "", loading: "lazy", decoding: "async" });
  const picture = element("div", { class: "thumb" }, image);
  image.addEventListener("error", () => {
    image.remove();
    picture.classList.add("broken");
    picture.prepend(element("span", { class: "no-picture" }, "no picture"));
  });
  if (label) picture.append(element("span", { class: "time" }, label));
  return picture;
}

function previewWhilePointedAt(link, picture, moment) {
  let timer = 0;
  let player = null;
  const stop = () => {
    clearTimeout(timer);
    player?.removeAttribute("src");
    player?.load();
    player?.remove();
    player = null;
  };
  const start = () => {
    player = element("video", { class: "preview", playsinline: true, "aria-hidden": "true", tabindex: "-1" });
    player.muted = true;
    player.src = `${moment.media}#t=${moment.start_seconds},${moment.end_seconds}`;
    player.addEventListener("playing", () => player?.classList.add("playing"));
    player.addEventListener("timeupdate", () => {
      if (player && player.currentTime >= moment.end_seconds) player.currentTime = moment.start_seconds;
    });
    player.addEventListener("pause", () => {
      if (!player) return;
      player.currentTime = moment.start_seconds;
      player.play().catch(stop);
    });
    // What a browser cannot play keeps its picture.
    player.addEventListener("error", stop);
    picture.append(player);
    player.play().catch(() => {});
  };
  const soon = () => {
    stop();
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    timer = setTimeout(start, PREVIEW_AFTER_MILLISECONDS);
  };
  link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && soon());
  link.addEventListener("pointerleave", stop);
  link.addEventListener("focus", () => link.matches(":focus-visible") && soon());
  link.addEventListener("blur", stop);
}
