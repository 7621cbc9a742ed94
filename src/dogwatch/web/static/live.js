// Live events: bars move as results arrive; whatever else changes, the server renders anew. After a break the page
// catches up before it calls itself live.
import { push } from "./bars.js";
import { duration } from "./times.js";
import { t } from "./words.js";

const SILENCE_MS = 25_000; // two and a half of the server's beats
const FEW = 250; // up to this many targets the stream carries all results, above only those on screen
const AT_ONCE = 60;
const REFRESH_MS = { now: 700, "target-now": 1500, hosts: 5000, "host-now": 5000, "runs-now": 1000, "jobs-now": 1500, "job-now": 1000, "workers-now": 2000, "schedules-now": 2000, "schedule-now": 2000, "webhooks-now": 2000, "deliveries-now": 2000, "outbox-now": 2000, "settings-now": 4000, "incidents-now": 1000, "incident-now": 1000, "silences-now": 2000, "maintenance-now": 2000 };
const REFRESH_OTHERS_MS = 2000;
const RUNS = ["runs-now", "jobs-now", "job-now", "workers-now", "schedules-now", "schedule-now", "webhooks-now", "deliveries-now", "outbox-now", "settings-now", "fleet-now", "fleet-run-now", "fleet-plans-now", "fleet-plan-now"];
const INCIDENTS = ["incidents-now", "incident-now", "silences-now", "maintenance-now"];
const RUNS_EVERY_MS = 4000; // not every change of a run is told: other processes work on them, too

let source = null;
let attempts = 0;
let lastHeard = 0;
let broken = false;
let retryTimer = 0;
let closed = false;
const onScreen = new Set();
const waiting = new Map();
let drawn = ""; // when the server drew the page, until the stream has told what came after

const row = (name) => document.querySelector(`.row[data-target="${CSS.escape(name)}"]`);

function say(state, text) {
  const live = document.getElementById("live");
  if (live.dataset.state === state) return;
  live.dataset.state = state;
  document.getElementById("live-text").textContent = text;
}

// Fetches a part of the page anew; what is open, focused or selected in it stays (htmx morphs).
export function refresh(id) {
  const part = document.getElementById(id);
  const address = part?.dataset.refresh;
  if (!address) return Promise.resolve();
  return window.htmx.ajax("GET", address, { target: `#${id}`, swap: "innerMorph" }).then(() => {
    document.dispatchEvent(new Event("dogwatch:fresh"));
    headline();
  });
}

// Another stream of this page heard the server: it is there.
export function spoke() {
  lastHeard = Date.now();
}

function soon(id) {
  if (waiting.has(id) || !document.getElementById(id)) return;
  waiting.set(id, setTimeout(() => { waiting.delete(id); if (!document.hidden) refresh(id); }, REFRESH_MS[id] ?? REFRESH_OTHERS_MS));
}

function headline() {
  const verdict = document.querySelector(".verdict");
  const down = Number(verdict?.dataset.down ?? 0);
  if (verdict) document.title = document.title.replace(/^(\([^)]*\d[^)]*\) )?/, down ? `(${t("{0} down", down)}) ` : "");
  const word = down ? "-down" : Number(verdict?.dataset.degraded ?? 0) ? "-degraded" : "";
  const icon = document.getElementById("icon");
  icon.href = icon.href.replace(/icon[a-z-]*\.svg$/, `icon${word}.svg`);
}

async function freshRows(rows) {
  for (let start = 0; start < rows.length; start += AT_ONCE) {
    const query = new URLSearchParams(rows.slice(start, start + AT_ONCE).map((one) => ["target", one.dataset.target]));
    // A daemon that has just gone is told by the stream.
    const answer = await fetch(`/fragments/rows?${query}`).catch(() => null);
    if (!answer?.ok) return;
    const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const fresh of parsed.querySelectorAll(".row")) replaceRow(fresh);
  }
  document.dispatchEvent(new Event("dogwatch:fresh"));
}

function replaceRow(fresh) {
  const old = document.getElementById(fresh.id);
  if (!old) return;
  old.dataset.status = fresh.dataset.status;
  for (const part of [".who", ".figures"]) {
    if (!old.querySelector(part).contains(document.activeElement)) {
      old.querySelector(part).replaceWith(document.adoptNode(fresh.querySelector(part)));
    }
  }
  const bars = old.querySelector(".bars");
  const newer = fresh.querySelector(".bars");
  bars.dataset.bars = newer.dataset.bars;
  bars.querySelector("svg").replaceWith(document.adoptNode(newer.querySelector("svg")));
}

const many = () => Number(document.getElementById("board")?.dataset.total ?? 0) > FEW;

function catchUp() {
  refresh("now");
  refresh("hosts");
  refresh("target-now");
  refresh("host-now");
  refresh("run-now");
  RUNS.forEach(refresh);
  INCIDENTS.forEach(refresh);
  freshRows([...document.querySelectorAll(".row")].filter((one) => !many() || onScreen.has(one)));
}

// A crowd of changes: the page is fetched anew, but not more often than every two seconds.
let crowdTimer = 0;
function catchUpSoon() {
  crowdTimer ||= setTimeout(() => { crowdTimer = 0; catchUp(); }, 2000);
}

// The configuration has changed: other targets may be on the board. What is typed, focused and open stays.
function freshBoard() {
  const swap = { target: "#board", select: "#board", swap: "outerMorph" };
  window.htmx.ajax("GET", location.pathname + location.search, swap).then(() => {
    document.dispatchEvent(new Event("dogwatch:fresh"));
    connect(); // it may have become one of many
  });
}

function onResult(result) {
  const place = row(result.target);
  if (place) {
    push(place.querySelector(".bars"), result);
    place.querySelector("[data-latency]").textContent = duration(result.duration_s || null);
    if (place.dataset.status !== result.status) soon("now");
    if (place.dataset.status !== result.status || result.status === "pending") changed.add(place), freshSoon();
  }
  const page = document.querySelector("[data-target-page]");
  if (page?.dataset.targetPage === result.target) {
    push(page.querySelector(".bars"), result);
    soon("target-now");
  }
}

const changed = new Set();
let changedTimer = 0;
function freshSoon() {
  changedTimer ||= setTimeout(() => { changedTimer = 0; const rows = [...changed]; changed.clear(); freshRows(rows); }, 800);
}

function onTransition(transition) {
  soon("now");
  const place = row(transition.target);
  if (place) changed.add(place), freshSoon();
  if (document.querySelector("[data-target-page]")?.dataset.targetPage === transition.target) soon("target-now");
}

function address() {
  // Where there are thousands and no row is on screen, no result is worth its way here.
  const results = !many() || onScreen.size || document.querySelector("[data-target-page]");
  const topics = `${results ? "result,target," : ""}transition,sample,reload,finding,run,incident`;
  const query = new URLSearchParams({ topics, brief: "true" });
  if (drawn) query.set("since_s", drawn);
  const page = document.querySelector("[data-target-page]");
  if (page) query.append("target", page.dataset.targetPage);
  else if (many()) for (const one of [...onScreen].slice(0, AT_ONCE)) query.append("target", one.dataset.target);
  return `/api/v1/events?${query}`;
}

function connect() {
  clearTimeout(retryTimer);
  source?.close();
  source = new EventSource(address());
  const heard = (take) => (event) => {
    lastHeard = Date.now();
    if (take) take(JSON.parse(event.data));
  };
  source.onopen = () => {
    lastHeard = Date.now();
    attempts = 0;
    drawn = "";
    if (broken) catchUp();
    broken = false;
    say("live", t("Live"));
  };
  source.onerror = again;
  source.addEventListener("bye", again);
  source.addEventListener("beat", heard());
  source.addEventListener("dropped", heard(() => catchUpSoon()));
  source.addEventListener("many", heard(() => catchUpSoon()));
  source.addEventListener("result", heard(onResult));
  source.addEventListener("transition", heard(onTransition));
  source.addEventListener("sample", heard(() => { soon("hosts"); soon("host-now"); }));
  source.addEventListener("reload", heard((record) => {
    if (record?.outcome === "applied" && document.getElementById("board")) freshBoard();
    soon("now");
  }));
  source.addEventListener("finding", heard(() => soon("now")));
  source.addEventListener("run", heard(() => RUNS.forEach(soon)));
  source.addEventListener("incident", heard(() => { soon("now"); INCIDENTS.forEach(soon); }));
  source.addEventListener("target", heard(() => { soon("now"); soon("target-now"); }));
}

// Own backoff, with full jitter: a browser's fixed one would bring all viewers back at the same instant.
function again() {
  if (closed) return;
  source.close();
  broken = true;
  attempts += 1;
  say("waiting", t("Reconnecting"));
  clearTimeout(retryTimer);
  retryTimer = setTimeout(connect, 200 + Math.random() * Math.min(30_000, 500 * 2 ** attempts));
}

let scrollTimer = 0;
function watchScreen() {
  const observer = new IntersectionObserver((entries) => {
    const arrived = [];
    for (const entry of entries) {
      if (entry.isIntersecting) { if (!onScreen.has(entry.target)) arrived.push(entry.target); onScreen.add(entry.target); }
      else onScreen.delete(entry.target);
    }
    if (!many() || !source || !arrived.length) return;
    clearTimeout(scrollTimer);
    scrollTimer = setTimeout(() => { connect(); freshRows([...onScreen]); }, 600);
  }, { rootMargin: "200px" });
  const observe = () => {
    for (const one of onScreen) if (!one.isConnected) onScreen.delete(one);
    for (const one of document.querySelectorAll(".row")) observer.observe(one);
  };
  observe();
  document.addEventListener("htmx:after:swap", observe);
}

export function startLive() {
  // Nobody who is not logged in is told anything.
  if ("anonymous" in document.body.dataset) return;
  drawn = document.body.dataset.drawn;
  watchScreen();
  headline();
  // One frame later the observer knows what is on screen.
  requestAnimationFrame(() => setTimeout(connect, 50));
  setInterval(() => {
    if (source && !broken && Date.now() - lastHeard > SILENCE_MS) {
      say("stale", t("Stale: nothing heard"));
      again();
    }
  }, 5000);
  setInterval(() => { if (!broken) RUNS.forEach(soon); }, RUNS_EVERY_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && source?.readyState === EventSource.CLOSED) connect();
    else if (!document.hidden) catchUp();
  });
  // A page kept for "back" must not hold a stream open.
  addEventListener("pagehide", () => { closed = true; source?.close(); clearTimeout(retryTimer); });
  addEventListener("pageshow", (event) => { if (event.persisted) { closed = false; broken = true; connect(); } });
}
