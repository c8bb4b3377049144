// Keeps a page as the hub has it: when something changes the same page is asked for again, and what differs is put in
// place. What the reader has typed, opened, chosen or scrolled to stays. Without this script pages work and are reloaded.
"use strict";
(() => {
  const least = 1000; // ms between two questions for the page
  const live = document.getElementById("live");
  if (!live || !window.EventSource) return;
  const said = live.querySelector(".said");

  // The hub's clock, against this machine's.
  let skew = Number(document.body.dataset.now) - Date.now();
  const hubNow = () => Date.now() + skew;

  const took = (s) => {
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min";
    if (s < 48 * 3600) return Math.floor(s / 3600) + " h";
    return Math.floor(s / 86400) + " days";
  };
  const ago = (s) => (s < 0 ? "in " + took(-s) : s < 5 ? "just now" : took(s) + " ago");
  const setText = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const tick = () => {
    for (const t of document.querySelectorAll("main time[datetime]")) {
      const s = Math.trunc((hubNow() - Date.parse(t.dateTime)) / 1000);
      setText(t, "for" in t.dataset ? "for " + took(Math.max(0, s)) : ago(s));
    }
  };

  // State of the connection. It is announced when it changes, and not with every update.
  let liveSince = hubNow();
  const clock = (ms) => new Date(ms).toISOString().slice(11, 19) + " UTC";
  const isLive = () => {
    liveSince = hubNow();
    live.className = "live on";
    setText(said, "Live");
  };
  const notLive = (why) => {
    if (live.className === "live off") return;
    live.className = "live off";
    setText(said, "Not live since " + clock(liveSince) + (why ? ": " + why : ""));
  };

  // morph makes the old element look like the new one, and keeps every element that can stay.
  const keyOf = (n) => (n.nodeType === 1 ? n.id || n.dataset.key || "" : "");
  const fits = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
  const userOwns = (el, name) => (el.nodeName === "DETAILS" && name === "open") || (el.id === "outdated" && name === "hidden");
  const attributes = (old, fresh) => {
    for (const { name, value } of [...fresh.attributes]) {
      if (!userOwns(old, name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!userOwns(old, name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
  };
  const morph = (old, fresh) => {
    if (old.nodeType !== 1) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.hasAttribute("data-keep")) return;
    const mark = old.classList.contains("sign") && !old.classList.contains("changed") && old.textContent !== fresh.textContent;
    attributes(old, fresh);
    if (old.nodeName === "SELECT" && old === document.activeElement) return; // it may be open
    children(old, fresh);
    if (mark) old.classList.add("changed");
  };
  const children = (old, fresh) => {
    const keyed = new Map();
    const stay = new Set();
    for (const n of old.childNodes) if (keyOf(n) && !keyed.has(keyOf(n))) keyed.set(keyOf(n), n);
    for (const n of fresh.childNodes) stay.add(keyOf(n));
    let at = old.firstChild;
    for (const want of [...fresh.childNodes]) {
      while (at && at.nodeType === 1 && !fits(at, want)) {
        const next = at.nextSibling;
        if (at.hasAttribute("data-keep")) at = next;
        else if (keyOf(at) && !stay.has(keyOf(at))) {
          at.remove();
          at = next;
        } else break;
      }
      const known = keyOf(want) && keyed.get(keyOf(want));
      keyed.delete(keyOf(want));
      if (known && known !== at && fits(known, want)) {
        // moveBefore keeps focus and state, where a browser has it.
        if (old.moveBefore) old.moveBefore(known, at);
        else old.insertBefore(known, at);
        morph(known, want);
      } else if (at && fits(at, want)) {
        morph(at, want);
        at = at.nextSibling;
      } else {
        old.insertBefore(document.importNode(want, true), at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      if (!(gone.nodeType === 1 && gone.hasAttribute("data-keep"))) gone.remove();
    }
  };

  const show = (page) => {
    const active = document.activeElement;
    const [from, to] = active && "selectionStart" in active ? [active.selectionStart, active.selectionEnd] : [null, null];
    document.title = page.title;
    morph(document.body, page.body);
    skew = Number(document.body.dataset.now) - Date.now();
    if (active && active !== document.activeElement && active !== document.body) {
      if (active.isConnected) {
        active.focus({ preventScroll: true });
        if (from !== null) active.setSelectionRange(from, to);
      } else document.getElementById("main").focus({ preventScroll: true });
    }
    tick();
    schedule();
  };

  // One question at a time, and at most one in a second.
  let asking = false;
  let wanted = false;
  let last = -least;
  let timer = 0;
  const refresh = () => {
    wanted = true;
    if (asking || timer || document.hidden) return;
    timer = setTimeout(ask, Math.max(0, last + least - performance.now()));
  };
  const ask = async () => {
    timer = 0;
    wanted = false;
    asking = true;
    last = performance.now();
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error", cache: "no-store" });
      const text = await answer.text();
      const page = new DOMParser().parseFromString(text, "text/html");
      const build = page.documentElement.dataset.build;
      if (answer.status >= 500 || !build) {
        notLive(answer.status === 403 ? "you may no longer look" : "the hub answers " + answer.status);
      } else if (build !== document.documentElement.dataset.build) {
        // The hub was upgraded. A reader who is typing is left alone.
        const busy = document.activeElement && document.activeElement.matches("input, select, textarea");
        if (!busy) location.reload();
      } else {
        show(page);
        isLive();
      }
    } catch {
      notLive("");
    } finally {
      asking = false;
      if (wanted) refresh();
    }
  };

  // Pages that show something under way ask of themselves.
  let every = 0;
  const schedule = () => {
    clearTimeout(every);
    const seconds = Number(document.body.dataset.every || 0);
    if (seconds > 0) every = setTimeout(refresh, seconds * 1000);
  };

  // A forecast stays as it was read, and says when it is no longer true.
  const frozen = document.body.hasAttribute("data-frozen");
  let first = "";
  const changed = (e) => {
    if (!frozen) return refresh();
    isLive();
    const outdated = document.getElementById("outdated");
    if (outdated && first && first !== e.data) outdated.hidden = false;
    first ||= e.data;
  };

  let source = null;
  const open = () => {
    if (source) return;
    source = new EventSource("/events");
    source.addEventListener("change", changed);
    source.addEventListener("beat", () => (frozen ? isLive() : refresh()));
    source.addEventListener("error", () => {
      notLive("");
      // A browser gives up on an answer that is no stream, such as that of a hub that is starting.
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(() => document.hidden || open(), 5000);
      }
    });
  };
  const close = () => {
    if (source) source.close();
    source = null;
    clearTimeout(every);
  };
  // A hidden page costs the hub nothing. A browser has few connections for each host.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return close();
    open();
    if (!frozen) refresh();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (e) => e.persisted && open());
  // Fragments lead into what is closed.
  const reveal = () => {
    const el = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (el && el.nodeName === "DETAILS") el.open = true;
  };
  window.addEventListener("hashchange", reveal);

  reveal();
  tick();
  setInterval(() => document.hidden || tick(), 1000);
  schedule();
  if (!document.hidden) open();
})();
