// Numbers and elements, as people read them.

export function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6);
  const parts = [Math.floor(whole / 60) % 60, whole % 60].map((n) => String(n).padStart(2, "0"));
  const hours = Math.floor(whole / 3600);
  return hours ? `${hours}:${parts.join(":")}` : parts.join(":").replace(/^0/, "");
}

export function range(moment) {
  const [start, end] = [clock(moment.start_seconds), clock(moment.end_seconds)];
  return start === end ? start : `${start} – ${end}`;
}

export function score(moment) {
  if (moment.probability !== null && moment.probability !== undefined) {
    return `${Math.round(100 * moment.probability)} %`;
  }
  return moment.score.toFixed(3);
}

export function folder(video) {
  return video.includes("/") ? video.slice(0, video.lastIndexOf("/")) : "";
}

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// element("a", {href: "/", class: "card"}, "text", child); text is never read as HTML.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
