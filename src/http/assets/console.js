// What a page does beyond being read: it keeps itself up to date, tells a screen reader when a verdict changes, and
// adds the reader's own time of day. Without this script every page and form works the same.
"use strict";

const QUIET_MS = 10000; // between two announcements
const APART_MS = 1000; // between two requests for news

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dated = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

// UTC stays first: it is what logs and colleagues elsewhere speak of.
function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (time.querySelector(".local") || Number.isNaN(at.getTime()) || at.getTimezoneOffset() === 0) continue;
    const local = document.createElement("span");
    local.className = "local";
    const isToday = /^\d\d:\d\d/.test(time.textContent);
    local.textContent = ` ${(isToday ? clock : dated).format(at)} local`;
    time.append(local);
    time.title += `\n${whole.format(at)}`;
  }
}

// Makes `there` like `wanted` with as few changes as possible: what has the focus, is open or half filled in stays.
function morph(there, wanted) {
  if (there.isEqualNode(wanted)) return;
  if (there.nodeType !== wanted.nodeType || there.nodeName !== wanted.nodeName) {
    there.replaceWith(wanted.cloneNode(true));
    return;
  }
  if (there.nodeType !== Node.ELEMENT_NODE) {
    there.nodeValue = wanted.nodeValue;
    return;
  }
  if (isInUse(there)) return;
  for (const { name } of [...there.attributes]) {
    if (!wanted.hasAttribute(name) && !isReaders(there, name)) there.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (there.getAttribute(name) !== value && !isReaders(there, name)) there.setAttribute(name, value);
  }
  morphChildren(there, wanted);
}

function isReaders(element, attribute) {
  return (attribute === "open" && element.nodeName === "DETAILS") || (attribute === "value" && element.nodeName === "INPUT");
}

// A form that somebody has opened belongs to them.
function isInUse(element) {
  return element.hasAttribute("data-keep") && (element.open || element.contains(document.activeElement));
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE && node.id ? node.id : null;
}

function morphChildren(there, wanted) {
  const known = new Map();
  for (const child of there.children) if (child.id) known.set(child.id, child);
  let next = there.firstChild;
  for (const want of [...wanted.childNodes]) {
    const key = keyOf(want);
    let have = key ? known.get(key) : next;
    if (key && have && have !== next) there.insertBefore(have, next);
    // A node with an id is nobody else's place.
    if (have && !key && keyOf(have)) have = null;
    if (have) {
      next = have.nextSibling;
      morph(have, want);
    } else {
      there.insertBefore(want.cloneNode(true), next);
    }
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    if (gone.nodeType !== Node.ELEMENT_NODE || !isInUse(gone)) gone.remove();
  }
}

let announcedAt = 0;
let announced = null;

function verdict() {
  return [...document.querySelectorAll("[data-announce]")].map((one) => one.textContent.trim()).join(" ");
}

// Only what became another verdict, never each number on its way.
function announce() {
  const words = verdict();
  // Numbers in it change all the time.
  const gist = words.replace(/[\d.,]+/g, "#");
  if (announced === null) announced = gist;
  if (gist === announced || Date.now() - announcedAt < QUIET_MS) return;
  announced = gist;
  announcedAt = Date.now();
  document.getElementById("announcer").textContent = words;
}

let asking = false;
let wanted = false;

async function renew() {
  if (asking) {
    wanted = true;
    return;
  }
  asking = true;
  wanted = false;
  try {
    const answer = await fetch(location.href, { headers: { "X-Fragment": "live" }, redirect: "error", cache: "no-store" });
    // Logged out, or gone: the page as a whole says so.
    if (answer.status === 401 || answer.status === 403 || answer.status === 404) return location.reload();
    if (!answer.ok) return tell("Not up to date");
    const news = new DOMParser().parseFromString(await answer.text(), "text/html");
    localise(news);
    for (const there of document.querySelectorAll("[data-live]")) {
      const now = news.getElementById(there.id);
      if (now) morph(there, now);
    }
    announce();
    tell("Live");
  } catch {
    tell("Not connected");
  } finally {
    asking = false;
    setTimeout(() => wanted && renew(), APART_MS);
  }
}

function tell(words) {
  const place = document.querySelector("[data-connection]");
  if (place && place.textContent !== words) place.textContent = words;
}

function listen() {
  const events = new EventSource("/events");
  let revision = null;
  events.addEventListener("fleet", (event) => {
    const now = JSON.parse(event.data).revision;
    if (now !== revision && !document.hidden) renew();
    revision = now;
  });
  events.addEventListener("open", () => tell("Live"));
  events.addEventListener("error", () => tell("Not connected"));
  document.addEventListener("visibilitychange", () => !document.hidden && renew());
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

// One form at a time; Escape closes it and gives the focus back to its button.
function forms() {
  document.addEventListener("click", (event) => {
    for (const open of document.querySelectorAll("details.act[open]")) {
      if (!open.contains(event.target)) open.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    const open = event.key === "Escape" && document.querySelector("details.act[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });
  document.addEventListener("toggle", (event) => {
    const field = event.target.matches?.("details.act[open]") && event.target.querySelector("input:not([type=hidden])");
    if (field) field.focus();
  }, true);
}

localise(document);
announce();
forms();
if (document.querySelector("[data-live]")) listen();
