// Returns what is wrong with the page as a reader finds it, one sentence each.
(() => {
  const wrong = [];
  const name = (el) => {
    const text = (el.textContent || el.getAttribute("name") || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${el.nodeName.toLowerCase()}${el.id ? "#" + el.id : ""}${el.className && el.className.baseVal === undefined ? "." + [...el.classList].join(".") : ""}> "${text}"`;
  };
  const clips = new Map([[null, false]]);
  const clipped = (el) => {
    if (!clips.has(el)) clips.set(el, getComputedStyle(el).clipPath !== "none" || clipped(el.parentElement));
    return clips.get(el);
  };
  const shown = (el) => el.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !el.closest(".skip") && !clipped(el);

  // Colours as the screen has them, whatever notation the sheet uses.
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const seen = new Map();
  const rgba = (css) => {
    if (!seen.has(css)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = css;
      pen.fillRect(0, 0, 1, 1);
      const d = pen.getImageData(0, 0, 1, 1).data;
      seen.set(css, [d[0], d[1], d[2], d[3] / 255]);
    }
    return seen.get(css);
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const backgrounds = new Map([[null, [255, 255, 255, 1]]]);
  const background = (el) => {
    if (!backgrounds.has(el)) {
      const style = getComputedStyle(el);
      if (style.backgroundImage !== "none") wrong.push(name(el) + " has an image behind text, whose contrast nobody can tell");
      backgrounds.set(el, over(rgba(style.backgroundColor), background(el.parentElement)));
    }
    return backgrounds.get(el);
  };
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [hi, lo] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (hi + 0.05) / (lo + 0.05);
  };
  const check = (el, color, what) => {
    const under = background(el);
    const ratio = contrast(over(rgba(color), under), under);
    if (ratio < 4.5) wrong.push(`${what} ${name(el)} has a contrast of ${ratio.toFixed(2)}, less than 4.5: ${color} on ${under.slice(0, 3).map(Math.round)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = new Set();
  for (let n = walker.nextNode(); n; n = walker.nextNode()) if (n.nodeValue.trim()) texts.add(n.parentElement);
  for (const el of texts) if (shown(el)) check(el, getComputedStyle(el).color, "text of");
  for (const el of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    check(el, getComputedStyle(el).color, "value of");
    if (el.placeholder) check(el, getComputedStyle(el, "::placeholder").color, "placeholder of");
    if (!(el.labels && el.labels.length && [...el.labels].some((l) => l.textContent.trim()))) wrong.push(name(el) + " has no label");
  }
  for (const el of document.querySelectorAll("svg.icon")) {
    const under = background(el);
    if (shown(el) && contrast(over(rgba(getComputedStyle(el).color), under), under) < 3) wrong.push("symbol in " + name(el.parentElement) + " has a contrast below 3");
  }

  for (const t of document.querySelectorAll("table")) {
    if (!t.caption || !t.caption.textContent.trim()) wrong.push("a table has no caption");
    if (!t.querySelector("thead th[scope]")) wrong.push("a table has no heads with a scope");
    for (const tr of t.querySelectorAll("tbody tr")) {
      if (!tr.querySelector("th[scope=row]")) wrong.push("a row has no head: " + name(tr));
    }
  }
  for (const th of document.querySelectorAll("th")) if (!th.scope || !th.textContent.trim()) wrong.push("a head without scope or text: " + name(th));

  const ids = new Set();
  for (const el of document.querySelectorAll("[id]")) {
    if (ids.has(el.id)) wrong.push(`the id ${el.id} is there twice`);
    ids.add(el.id);
  }
  for (const el of document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]")) {
    for (const id of (el.getAttribute("aria-labelledby") || el.getAttribute("aria-describedby") || el.getAttribute("for")).split(" ")) {
      if (!ids.has(id)) wrong.push(`${name(el)} refers to ${id}, which is not there`);
    }
  }
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((h) => Number(h.nodeName[1]));
  if (levels.filter((l) => l === 1).length !== 1) wrong.push("there is not one h1");
  levels.forEach((l, i) => i && l > levels[i - 1] + 1 && wrong.push("a heading skips a level"));
  if (document.documentElement.lang !== "en") wrong.push("the page has no language");
  for (const mark of ["main"]) if (document.querySelectorAll(mark).length !== 1) wrong.push("there is not one " + mark);
  if (document.querySelector("[style]")) wrong.push(name(document.querySelector("[style]")) + " has a style of its own");

  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth) {
    const wide = [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest(".scroll, pre"));
    wrong.push(`the page scrolls sideways: ${root.scrollWidth} in a window of ${window.innerWidth}: ${wide.slice(0, 3).map(name).join("; ")}`);
  }
  for (const el of document.querySelectorAll("a, button, input:not([type=hidden]), select, summary")) {
    const box = el.getBoundingClientRect();
    if (shown(el) && (box.width < 4 || box.height < 12)) wrong.push(`${name(el)} is too small to hit: ${box.width} by ${box.height}`);
  }
  for (const el of document.querySelectorAll(".stack td[data-label], .sign, th")) {
    // Text that sticks out of its box lies upon its neighbour.
    if (shown(el) && el.scrollWidth > el.clientWidth + 2 && el.clientWidth > 0 && getComputedStyle(el).display !== "inline") wrong.push(`${name(el)} sticks out of its box: ${el.scrollWidth} in ${el.clientWidth}`);
  }
  return wrong;
})();
